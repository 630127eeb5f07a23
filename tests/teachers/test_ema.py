"""The mean student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.teachers import AveragedTeacher, EmaTeacher
from tests.builders import make_batch, make_data, make_model, make_trainer, same_bits, weights_of
from tests.module.parts import Follow, distilling


class Students(Callback):
    """Keeps the student before the first and after every step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(weights_of(pl_module.student))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if len(self.states) == trainer.global_step:
            self.states.append(weights_of(pl_module.student))


def followed(states: list[dict[str, Tensor]], decay: float, warmup: bool) -> dict[str, Tensor]:
    """By the formula, in float64."""
    mean = {name: x.double() for name, x in states[0].items()}
    for t, state in enumerate(states[1:], start=1):
        a = min(decay, 1 - 1 / (t + 1)) if warmup else decay
        for name, x in state.items():
            buffer = "running" in name or "num_batches" in name
            mean[name] = x.double() if buffer else a * mean[name] + (1 - a) * x
    return mean


@pytest.mark.parametrize(
    ("decay", "warmup", "accumulate"), [(0.9, False, 1), (0.7, True, 1), (0.9, False, 2)]
)
def test_it_follows_the_student(tmp_path: Path, decay: float, warmup: bool, accumulate: int) -> None:
    teacher, students = EmaTeacher(decay, warmup), Students()
    module = distilling(teacher)
    options: dict[str, Any] = {"callbacks": [students], "accumulate_grad_batches": accumulate}
    make_trainer(tmp_path, max_epochs=2, **options).fit(module, make_data())
    expected = followed(students.states, decay, warmup)
    assert len(students.states) == 1 + 8 // accumulate
    for name, x in teacher.state_dict().items():
        torch.testing.assert_close(x.double(), expected[name], atol=1e-6, rtol=1e-5)
    assert not any(x.requires_grad for x in teacher.tensors())
    assert not any(part.training for part in teacher.model.modules())


def test_a_resumed_training_has_the_same_teacher_to_the_bit(tmp_path: Path) -> None:
    def make() -> Any:
        torch.manual_seed(3)
        return distilling(EmaTeacher(0.8), losses={"hint": SameFollow()})

    whole = make()
    make_trainer(tmp_path, max_epochs=3).fit(whole, make_data())
    first = make()
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(first, make_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    second = make()
    make_trainer(tmp_path, max_epochs=3).fit(second, make_data(), ckpt_path=tmp_path / "c.ckpt")
    for mine, its in zip(whole.teacher.tensors(), second.teacher.tensors(), strict=True):
        assert same_bits(mine, its)
    for mine, its in zip(whole.parameters(), second.parameters(), strict=True):
        assert same_bits(mine, its)
    fresh = make()
    make_trainer(tmp_path).validate(fresh, make_data(), ckpt_path=str(tmp_path / "c.ckpt"), verbose=False)
    for mine, its in zip(fresh.teacher.tensors(), first.teacher.tensors(), strict=True):
        assert same_bits(mine, its)


class SameFollow(Follow):
    """For a teacher as wide as the student."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(8, 8)


def test_before_training_it_says_so() -> None:
    for ask in (lambda t: t.num_classes, lambda t: t(make_batch()), lambda t: AveragedTeacher([t])):
        with pytest.raises(TeacherError, match="before the training has begun"):
            ask(EmaTeacher())
    assert EmaTeacher().state_dict() == {}
    assert EmaTeacher().classes is None


def test_it_is_told_to_begin_once() -> None:
    teacher, student = EmaTeacher(), make_model()
    teacher.begin(student)
    before = copy.deepcopy(teacher.state_dict())
    teacher.begin(make_model())
    assert all(same_bits(x, before[name]) for name, x in teacher.state_dict().items())
    assert not {x.data_ptr() for x in teacher.tensors()} & {p.data_ptr() for p in student.parameters()}


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_that_are_none(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"EmaTeacher\.decay"):
        EmaTeacher(decay)
