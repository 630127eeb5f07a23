"""What models say of a split: rows, labels, the teacher's inputs and order of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.explanation.agreement import agreement
from lightning_distill.explanation.answers import answers
from lightning_distill.explanation.asking import ask
from lightning_distill.explanation.by_class import by_class
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch
from lightning_distill.teachers import CachedTeacher, EmaTeacher, FrozenTeacher
from tests.builders import CLASSES, DIMS, VectorProcessor, VectorSource, make_data, make_model, weights_of

MESSY: dict[str, Any] = {"unlabelled": [30, 35], "absent": {"a": [28, 31], "b": [31, 33]}}
"""Rows 28 to 40 are of validation; row 31 has nothing."""


def one(data: MultimodalDataModule, row: int) -> Batch:
    """A batch of one sample, made by hand."""
    table = data.indexed.samples
    return {
        "inputs": {m: torch.from_numpy(data.source.vectors[m][row][None]).float() for m in DIMS},  # type: ignore[attr-defined]
        "present": {m: torch.tensor([bool(table.present[m][row])]) for m in DIMS},
        "target": torch.tensor([table.target[row]]),
        "sample_id": torch.tensor([table.sample_id[row]]),
        "domain": torch.zeros(1, dtype=torch.int64),
    }


def expected(model: MultimodalModel, data: MultimodalDataModule, rows: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(one(data, row)).logits.softmax(dim=1) for row in rows])


def test_each_row_is_asked_as_by_hand() -> None:
    """The student reads a alone: rows without it, or without a label, are left out for all."""
    torch.manual_seed(0)
    data, student, teacher = make_data(VectorSource(**MESSY)), make_model(("a",)), make_model()
    before = weights_of(teacher)
    found = answers({"student": student.train(), "teacher": FrozenTeacher(teacher)}, data, "val")
    rows = [29, 32, 33, 34, 36, 37, 38, 39, 40]
    assert found.rows.tolist() == rows
    assert found.sample_id.tolist() == [5000 + row for row in rows]
    assert found.target.tolist() == [row % 3 for row in rows]
    assert (found.split, found.classes) == ("val", CLASSES)
    for name, model in (("student", student), ("teacher", teacher)):
        torch.testing.assert_close(found.probabilities[name], expected(model, data, rows))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(teacher).items())
    assert answers({"student": make_model()}, data, "val").rows.tolist() == [28, *rows]


def test_a_teachers_classes_are_put_into_the_students_order() -> None:
    torch.manual_seed(0)
    data, student, model = make_data(), make_model(("a",)), make_model()
    model.classes = (CLASSES[2], CLASSES[0], CLASSES[1])
    found = answers({"student": student, "teacher": FrozenTeacher(model)}, data, "val")
    said = expected(model, data, found.rows.tolist())
    torch.testing.assert_close(found.probabilities["teacher"], said[:, [1, 2, 0]])


class _Doubled(VectorProcessor):
    """What a teacher reads, twice as large."""

    def prepare(self, raw: Any, view: Any = None) -> torch.Tensor:
        return 2 * super().prepare(raw, view)


def test_a_teacher_reads_its_own_inputs() -> None:
    torch.manual_seed(0)
    model, student = make_model(("a",)), make_model(("a",))
    data = make_data(teacher_processors={"a": _Doubled(DIMS["a"])})
    found = answers({"student": student, "teacher": FrozenTeacher(model)}, data, "val")
    at = int(found.rows[0])
    batch = one(data, at)
    batch["inputs"]["a"] = 2 * batch["inputs"]["a"]  # type: ignore[operator]
    torch.testing.assert_close(
        found.probabilities["teacher"][:1], model(batch).logits.softmax(dim=1).detach()
    )


def test_a_cached_teacher_is_quoted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, student, model = make_data(), make_model(("a",)), make_model()
    teacher = CachedTeacher(lambda: FrozenTeacher(model), tmp_path, dtype="float32")
    first = answers({"student": student, "teacher": teacher}, data, "val")
    assert teacher.cache.folder.is_dir()
    again = CachedTeacher(lambda: FrozenTeacher(model), tmp_path, dtype="float32")
    second = answers({"student": student, "teacher": again}, data, "val")
    assert again.missing == 0
    torch.testing.assert_close(first.probabilities["teacher"], second.probabilities["teacher"])
    torch.testing.assert_close(second.probabilities["teacher"], expected(model, data, second.rows.tolist()))


def test_training_samples_are_not_augmented() -> None:
    student, data = make_model(("a",)), make_data()
    said = ask({"student": student}, data, "train")
    assert said.rows.tolist() == list(range(28))
    torch.testing.assert_close(said.logits["student"].softmax(dim=1), expected(student, data, range(28)))


def test_a_permuted_teacher_misleads() -> None:
    """A student that has learnt what a teacher with two swapped classes says."""
    torch.manual_seed(0)
    data, student = make_data(VectorSource(train=30, val=60)), make_model(("a",))
    fit_by_hand(student, data, swap=True)
    teacher = make_model(("a",))
    teacher.load_state_dict(student.state_dict())
    baseline = make_model(("a",))
    fit_by_hand(baseline, data, swap=False)
    models = {"student": student, "teacher": FrozenTeacher(teacher), "baseline": baseline}
    found = answers(models, data, "val")
    ant, bee, cat = by_class(found)
    assert ant.misled + bee.misled >= 30
    assert cat.misled <= 5
    assert ant.gain is not None
    assert ant.gain + 2 * (ant.error or 0) < 0
    assert agreement(found).counts["both are wrong"] >= 30


def fit_by_hand(model: MultimodalModel, data: MultimodalDataModule, swap: bool) -> None:
    """A few steps on the true classes, or with the first two swapped."""
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    batch = next(iter(make_data(data.source, batch_size=30).train_dataloader()))
    target = torch.tensor([1, 0, 2])[batch["target"]] if swap else batch["target"]
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch).logits, target).backward()
        optimizer.step()


def test_what_cannot_be_asked_is_named() -> None:
    student = make_model(("a",))
    data = make_data(VectorSource(unlabelled=range(28, 41)))
    with pytest.raises(ConfigError, match="no sample with a label"):
        answers({"student": student}, data, "val")
    with pytest.raises(ConfigError, match="val or test"):
        answers({"student": student}, make_data(), "train")
    with pytest.raises(ConfigError, match="changes during training"):
        answers({"student": student, "teacher": EmaTeacher()}, make_data(), "val")
    source = VectorSource()
    source._table = replace(source.samples, target=np.ones((41, 3), np.float32))
    with pytest.raises(ConfigError, match="Regression"):
        answers({"student": student}, make_data(source), "val")
