"""Modules, terms and callbacks for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.clipping import ClipReport, ClipRule, RaiseNonFinite, ValueClip
from lightning_distill.clipping.non_finite import _Look
from lightning_distill.gradients import Gradients
from lightning_distill.losses import DistillationLoss, LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.structures import UNKNOWN, Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher, Teacher
from tests.builders import VectorSource, make_model

ADAM = partial(torch.optim.AdamW, lr=1e-2)
SGD = partial(torch.optim.SGD, lr=0.1)


class Follow(DistillationLoss):
    """A term with an adaptor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return (self.project(student.embedding) - teacher.embedding).square().mean()


class Told(LogitKD):
    """Notes what it is told before each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def begin_step(self, step: int, epoch: int) -> None:
        self.seen.append((step, epoch))


def make_module(teacher: MultimodalModel | None = None, **options: Any) -> DistillationModule:
    """A student of one modality, a teacher of two, one KD term."""
    defaults: dict[str, Any] = {
        "student": make_model(("a",)),
        "teacher": FrozenTeacher(teacher or make_model()),
        "losses": {"kd": LogitKD()},
        "optimizer": ADAM,
    }
    return DistillationModule(**(defaults | options))


def supervised(**options: Any) -> DistillationModule:
    return DistillationModule(**({"student": make_model(), "optimizer": ADAM} | options))


def distilling(teacher: Teacher, **options: Any) -> DistillationModule:
    """A student of one modality and any teacher, one KD term."""
    return supervised(
        **({"student": make_model(("a",)), "teacher": teacher, "losses": {"kd": LogitKD()}} | options)
    )


class TargetSource(VectorSource):
    """A `VectorSource` whose samples have other targets and, where given, weights."""

    def __init__(self, target: NDArray[Any], weight: Sequence[float] = ()) -> None:
        super().__init__()
        self._table = replace(self._table, target=target, weight=np.array(weight, np.float32))


def several(rows: int = 41, unknown: Sequence[int] = ()) -> NDArray[np.int8]:
    """Multilabel targets that the vectors tell: the class of a `VectorSource`, and the one after it."""
    first = np.arange(rows) % 3
    target = np.zeros((rows, 3), np.int8)
    target[np.arange(rows), first] = target[np.arange(rows), (first + 1) % 3] = 1
    target[list(unknown)] = UNKNOWN
    return target


def numbers(rows: int = 41) -> NDArray[np.float32]:
    """Regression targets that the vectors tell; some are not known."""
    first = np.arange(rows) % 3
    target = np.stack([first - 1.0, first == 0, 2.0 * first], axis=1).astype(np.float32)
    target[::5, 0] = target[7] = target[30] = np.nan
    return target


class Each(Callback):
    """Calls a function at the start of every training batch."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.function()


class Steps(Callback):
    """Keeps the weights before the first and after every batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights.append(self.flat(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.weights.append(self.flat(pl_module))

    @staticmethod
    def flat(module: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    def sizes(self) -> list[float]:
        """Largest change of any weight in each batch."""
        pairs = zip(self.weights, self.weights[1:], strict=False)
        return [(after - before).abs().max().item() for before, after in pairs]


class Spy(ClipRule):
    """Notes which parameters it is given, and clips like `ValueClip`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []
        self.rule = ValueClip(1e-3)

    def edit(self, gradients: Gradients) -> ClipReport:
        self.calls.append(tuple(p.data_ptr() for p in gradients.parameters))
        return self.rule.edit(gradients)


class _OnItsWay:
    """An event that has not happened yet."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass


class Late(Callback):
    """As on an accelerator: when training ends, the guard has not heard of a step that was not finite."""

    def __init__(self, guard: RaiseNonFinite) -> None:
        self.guard = guard

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        news: Any = _OnItsWay()
        self.guard._pending.append(_Look(7, ("late",), torch.tensor([True]), news))
