"""All facts of a run, from models made by hand and a folder with what `fit` writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.contribution import contributions
from lightning_distill.errors import ConfigError
from lightning_distill.explanation.answers import Answers, answers
from lightning_distill.explanation.gathering import OpenedRun, gather
from lightning_distill.explanation.misleading import misleading_samples
from lightning_distill.explanation.worth import worth
from lightning_distill.tasks import Classification, Multilabel
from lightning_distill.teachers import EmaTeacher, FrozenTeacher
from tests.builders import (
    DIMS,
    VectorProcessor,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, as far as it is read."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.yaml").write_text("data: {class_path: X, init_args: {password: abcdef}}\n")
    (folder / "env.json").write_text(json.dumps({"torch": "2", "api_key": "abcdef"}))
    (folder / "metrics.csv").write_text("step,epoch,val/loss\n0,0,1.5\n1,0,\n2,1,0.5\n")
    return folder


def opened(run: Path, **changes: Any) -> OpenedRun:
    """A student of a, a teacher of a and b, and the student's baseline."""
    torch.manual_seed(0)
    student = make_model(("a",))
    made = OpenedRun(
        run=run,
        student=student,
        teacher=FrozenTeacher(make_model()),
        pairs=((student, make_model(("a",))),),
        data=make_data(VectorSource(absent={"b": [29]})),
        task=Classification(),
    )
    return replace(made, **changes)


def test_every_field_is_filled(run: Path) -> None:
    made = opened(run)
    facts = gather(made, "val")
    assert (facts.run, facts.split, facts.task, facts.left_out) == (run, "val", "Classification", ())
    assert facts.modalities == {"student": ("a",), "teacher": ("a", "b")}
    count = sum(p.numel() for p in made.student.parameters())
    assert facts.parameters["student"] == count < facts.parameters["teacher"]
    assert facts.answers is not None
    assert list(facts.answers.probabilities) == ["student", "teacher", "baseline"]
    for name, values in facts.metrics.items():
        right = facts.answers.probabilities[name].argmax(dim=1) == facts.answers.target
        assert values["accuracy"] == pytest.approx(float(right.double().mean()))
        assert values["calibration_error"] == pytest.approx(facts.calibration[name].error, abs=1e-6)
    assert set(facts.metrics) == set(facts.calibration) == {"student", "teacher", "baseline"}
    assert facts.agreement is not None
    assert sum(facts.agreement.counts.values()) == sum(c.samples for c in facts.classes) == 13
    assert list(facts.contributions) == ["teacher"]  # the student has one modality
    assert facts.similarity is not None
    assert facts.worth == worth([facts.answers])
    assert facts.curves["val/loss"].values == (1.5, 0.5)
    assert facts.environment == {"torch": "2", "api_key": "***"}
    assert facts.misleading == misleading_samples(on_train(made))
    assert "abcdef" not in facts.config
    assert "class_path" in facts.config


def on_train(made: OpenedRun) -> Answers:
    """What the teacher says of all training samples, by hand."""
    assert isinstance(made.teacher, FrozenTeacher)
    rows, table = torch.arange(28), made.data.indexed.samples
    inputs = {m: torch.from_numpy(made.data.source.vectors[m][:28]).float() for m in DIMS}  # type: ignore[attr-defined]
    batch = {**make_batch(size=28), "inputs": inputs}
    with torch.no_grad():
        logits = made.teacher.model(batch).logits
    target, ids = (torch.from_numpy(values[:28]) for values in (table.target, table.sample_id))
    return Answers("train", rows, ids, target, {"teacher": logits.softmax(dim=1)}, made.data.classes)


def test_several_pairs(run: Path) -> None:
    made = opened(run)
    torch.manual_seed(1)
    other = (make_model(("a",)), make_model(("a",)))
    facts = gather(replace(made, pairs=(*made.pairs, other)), "val")
    pairs = [
        answers({"student": student, "baseline": baseline}, made.data, "val")
        for student, baseline in (*made.pairs, other)
    ]
    assert facts.worth == worth(pairs)
    assert facts.worth.pairs == 2


def test_without_teacher_and_baseline(run: Path) -> None:
    facts = gather(opened(run, teacher=None, pairs=(), student=make_model(), left_out=("No luck.",)), "val")
    assert list(facts.metrics) == ["student"]
    assert (facts.agreement, facts.similarity, facts.worth) == (None, None, None)
    assert list(facts.contributions) == ["student"]
    assert facts.left_out[0] == "No luck."
    assert any("none that can be asked" in line for line in facts.left_out)
    told = gather(opened(run, pairs=()), "val").left_out
    assert any(f"lightning-distill baseline {run}" in line for line in told)


class _Halved(VectorProcessor):
    """What a teacher reads, half as large."""

    def prepare(self, raw: Any, view: Any = None) -> torch.Tensor:
        return super().prepare(raw, view) / 2


def test_shares_of_a_teacher_with_processors_of_its_own(run: Path) -> None:
    source = VectorSource()
    made = opened(run, data=make_data(source, teacher_processors={"b": _Halved(DIMS["b"])}))
    facts = gather(made, "val")
    halved = make_data(source)
    halved.processors["b"] = _Halved(DIMS["b"])
    assert isinstance(made.teacher, FrozenTeacher)
    trainer = make_trainer(run)
    expected = contributions(made.teacher.model, halved, made.task, "val", trainer)
    assert facts.contributions["teacher"].scores == expected.scores
    assert made.data.teacher_processors  # as before


def test_what_cannot_be_made_is_said(run: Path) -> None:
    (run / "metrics.csv").unlink()
    (run / "env.json").write_text("{")
    facts = gather(opened(run, teacher=EmaTeacher()), "val")
    assert list(facts.metrics) == ["student", "baseline"]
    assert (facts.curves, facts.environment, facts.similarity) == ({}, {}, None)
    assert any("a EmaTeacher changes with the student" in line for line in facts.left_out)
    assert any(line.startswith("No curves: ") for line in facts.left_out)
    assert facts.worth is not None
    with pytest.raises(ConfigError, match="val or test"):
        gather(opened(run), "train")


def test_a_teacher_that_fails_is_left_out(run: Path) -> None:
    """It has other classes, of which nobody knows the names."""
    facts = gather(opened(run, teacher=FrozenTeacher(make_model(classes=4))), "val")
    assert list(facts.metrics) == ["student", "baseline"]
    assert any(line.startswith("No answers of the teacher: ") for line in facts.left_out)
    assert facts.worth is not None


def test_another_task_has_metrics_but_no_answers(run: Path) -> None:
    source = VectorSource()
    labels = np.eye(3, dtype=np.int64)[source.samples.target]
    source._table = replace(source.samples, target=labels)
    made = opened(run, data=make_data(source), task=Multilabel())
    facts = gather(made, "val")
    assert (facts.answers, facts.classes, facts.calibration, facts.worth) == (None, (), {}, None)
    assert set(facts.metrics) == {"student", "teacher", "baseline"}
    assert list(facts.contributions) == ["teacher"]
    assert any("the task is Multilabel" in line for line in facts.left_out)
