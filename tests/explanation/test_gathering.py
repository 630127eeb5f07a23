"""All facts of a run, from models made by hand and a folder with what `fit` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.contribution import contributions
from lightning_distill.data import CrossDomainDataModule, StreamSample, StreamSource
from lightning_distill.errors import ConfigError
from lightning_distill.explanation.answers import Answers, answers
from lightning_distill.explanation.gathering import gather
from lightning_distill.explanation.misleading import misleading_samples
from lightning_distill.explanation.opened_run import OpenedRun
from lightning_distill.explanation.worth import worth
from lightning_distill.reporting.run_page.page import render_run_report
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Classification, Multilabel
from lightning_distill.teachers import EmaTeacher, FrozenTeacher
from tests.builders import (
    CLASSES,
    DIMS,
    VectorProcessor,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
)
from tests.data.domains import cross, domain, vectors


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
    assert (facts.misleading, facts.misleading_count) == misleading_samples(on_train(made))
    assert (facts.worth_unknown, facts.no_baseline, facts.domains) == ("", False, ())
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


def test_a_teacher_that_cannot_read_some_samples(run: Path) -> None:
    """Metrics and worth are of all that student and baseline read, the rest of what the teacher reads too."""
    made = opened(run, teacher=FrozenTeacher(make_model(("b",))))
    other = (make_model(("a",)), make_model(("a",)))
    made = replace(made, pairs=(*made.pairs, other))
    facts = gather(made, "val")
    assert facts.worth == worth(
        [answers({"student": s, "baseline": b}, made.data, "val") for s, b in made.pairs]
    )
    assert facts.worth.samples == 13
    assert facts.answers is not None
    assert len(facts.answers.target) == 12
    alone = answers({"student": made.student}, made.data, "val")
    right = alone.probabilities["student"].argmax(dim=1) == alone.target
    assert facts.metrics["student"]["accuracy"] == pytest.approx(float(right.double().mean()))
    three = answers({"student": made.student, "teacher": made.teacher}, made.data, "val")  # type: ignore[dict-item]
    assert torch.equal(facts.answers.rows, three.rows)
    assert torch.equal(facts.answers.probabilities["teacher"], three.probabilities["teacher"])
    right = three.probabilities["teacher"].argmax(dim=1) == three.target
    assert facts.metrics["teacher"]["accuracy"] == pytest.approx(float(right.double().mean()))
    assert any(line.startswith("1 of 13 labelled samples are not in") for line in facts.left_out)


class _Foreign(FrozenTeacher):
    """A model that is not made for these data, and says so in its own words."""

    def __call__(self, batch: Batch) -> ModelOutput:
        raise RuntimeError("mat1 and mat2\n shapes cannot be multiplied")


def test_whatever_a_teacher_raises_is_left_out(run: Path) -> None:
    facts = gather(opened(run, teacher=_Foreign(make_model())), "val")
    assert (
        "No answers of the teacher: RuntimeError: mat1 and mat2 shapes cannot be multiplied" in facts.left_out
    )
    assert facts.worth is not None

    class _Stopped(_Foreign):
        def __call__(self, batch: Batch) -> ModelOutput:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(opened(run, teacher=_Stopped(make_model())), "val")


@pytest.mark.parametrize("part", ["similarity", "shares"])
def test_other_parts_that_run_the_teacher_may_fail(
    run: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(f"lightning_distill.explanation.measuring.{part}", fails)
    facts = gather(opened(run), "val")
    assert any(line.endswith(": ValueError: no such layer") for line in facts.left_out)
    assert facts.agreement is not None


def test_a_baseline_that_fails_is_left_out(run: Path) -> None:
    made = opened(run)
    facts = gather(replace(made, pairs=((made.student, make_model(("a",), classes=4)),)), "val")
    assert list(facts.metrics) == ["student", "teacher"]
    assert any(line.startswith("No answers of the baseline: ") for line in facts.left_out)
    assert "There is a baseline, but it could not be compared" in facts.worth_unknown


def test_a_teacher_with_its_classes_in_another_order(run: Path) -> None:
    model = make_model()
    model.classes = ("cat", "ant", "bee")
    facts = gather(opened(run, teacher=FrozenTeacher(model)), "val")
    assert "teacher" in facts.metrics
    assert "teacher" not in facts.contributions
    assert any("its classes in another order than the data" in line for line in facts.left_out)


TAUGHT = "model: {init_args: {teacher: {class_path: FrozenTeacher}}}\n"


@pytest.mark.parametrize(
    ("config", "changes", "told", "trains"),
    [
        ("data: {}\n", {"teacher": None}, "This run has no teacher.", False),
        ("data: {}\n", {}, "Nobody knows yet: there is no baseline", True),
        (TAUGHT, {"teacher": None}, 'cannot be asked any more (see "What is not here"). Nobody knows', True),
        ("data: {}\n", {"teacher": EmaTeacher()}, "cannot be asked any more", True),
        (
            TAUGHT,
            {"teacher": None, "task": Multilabel()},
            "for classifiers only, and the task is",
            False,
        ),
    ],
)
def test_why_nobody_knows_what_the_teacher_was_worth(
    run: Path, config: str, changes: dict[str, Any], told: str, trains: bool
) -> None:
    (run / "config.yaml").write_text(config)
    source = VectorSource()
    if "task" in changes:
        source._table = replace(source.samples, target=np.eye(3, dtype=np.int64)[source.samples.target])
    facts = gather(opened(run, **{"pairs": (), "data": make_data(source)} | changes), "val")
    assert told in facts.worth_unknown
    assert facts.no_baseline == trains
    assert any("lightning-distill baseline" in line for line in facts.left_out) == trains


def test_a_baseline_that_could_not_be_opened_is_none_that_is_missing(run: Path) -> None:
    (run / "baseline" / "student").mkdir(parents=True)
    facts = gather(opened(run, pairs=(), left_out=("Not every baseline: damaged.",)), "val")
    assert facts.worth_unknown.startswith("There is a baseline")
    assert not any("lightning-distill baseline" in line for line in facts.left_out)


class _Stream(StreamSource):
    """Nothing is ever read of it."""

    classes, modalities, splits = CLASSES, tuple(DIMS), ("train", "val")

    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        raise NotImplementedError

    def load(self, sample: StreamSample, modality: str) -> Any:
        raise NotImplementedError


def test_a_stream_has_curves_and_config(run: Path) -> None:
    facts = gather(opened(run, data=make_data(_Stream())), "val")
    assert (facts.metrics, facts.answers, facts.worth) == ({}, None, None)
    assert facts.curves["val/loss"].values == (1.5, 0.5)
    assert facts.environment["torch"] == "2"
    assert any("a stream" in line and f"evaluate {run}" in line for line in facts.left_out)
    assert facts.worth_unknown == "It is not measured on streams."
    assert facts.worth_unknown in render_run_report(facts, (), make_data(_Stream()), {})


def of_domains(run: Path, **options: Any) -> tuple[OpenedRun, CrossDomainDataModule]:
    data = cross(**options)
    return opened(run, data=data), data


def test_of_several_domains_the_target_counts(run: Path) -> None:
    made, data = of_domains(run)
    facts = gather(made, "val")
    assert facts.domains == ("target",)
    assert facts.answers is not None
    ids = facts.answers.sample_id
    assert ids.tolist() == list(range(7011, 7017))
    assert facts.worth is not None
    assert facts.worth.samples == facts.contributions["teacher"].samples == 6
    assert [int(data.indexed.samples.sample_id[row]) for row in facts.answers.rows.tolist()] == ids.tolist()
    assert sum(facts.agreement.counts.values()) == 6  # type: ignore[union-attr]


def test_without_labels_in_the_target_domain_all_count(run: Path) -> None:
    target = domain(vectors(7000, train=11, val=6, unlabelled=range(17)))
    facts = gather(of_domains(run, target=target)[0], "val")
    assert facts.domains == ()
    assert any(
        "13 labelled samples of 'source'" in line and "no sample of" in line for line in facts.left_out
    )


def test_domains_of_one_table_are_counted_together_and_told(run: Path) -> None:
    source = VectorSource()
    source.domains = ("old", "new")
    source._table = replace(source.samples, domain=(np.arange(41) > 35).astype(np.int64))
    facts = gather(opened(run, data=make_data(source)), "val")
    told = "All domains are counted together: 8 labelled samples of 'old', 5 labelled samples of 'new'."
    assert told in facts.left_out


ON_TARGET = """
model:
  init_args:
    losses: {kd: {class_path: OnTarget, init_args: {loss: {class_path: LogitKD}}}}
"""


def test_only_samples_that_the_terms_see_are_left_out(run: Path) -> None:
    """Teacher and labels contradict each other in both domains; the terms see one of them."""
    made, _ = of_domains(run, target=domain(vectors(7000, train=11, val=6)))
    everywhere = gather(made, "val").misleading
    (run / "config.yaml").write_text(ON_TARGET)
    there = gather(made, "val").misleading
    assert min(everywhere) < 7000
    assert there
    assert all(7000 <= number < 7011 for number in there)
    plain = gather(opened(run), "val")
    assert plain.misleading == ()
    assert any("it is not known which rows" in line for line in plain.left_out)


def test_the_teacher_alone_is_asked_about_the_training_split(run: Path) -> None:
    """Also about samples that the student cannot read."""
    source = VectorSource(absent={"a": range(0, 28, 2)})
    made = opened(run, teacher=FrozenTeacher(make_model(("b",))), data=make_data(source))
    facts = gather(made, "val")
    assert (facts.misleading, facts.misleading_count) == misleading_samples(on_train(made))
    assert any(number % 2 == 0 for number in facts.misleading)
