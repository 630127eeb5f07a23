"""Modules, terms and callbacks for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from lightning_distill.clipping import ClipRule, ValueClip
from lightning_distill.losses import DistillationLoss, LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher
from tests.builders import make_model

ADAM = partial(torch.optim.AdamW, lr=1e-2)
SGD = partial(torch.optim.SGD, lr=0.1)


class Hint(DistillationLoss):
    """A term with an adaptor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return (self.project(student.embedding) - teacher.embedding).square().mean()


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

    def clip(self, parameters: Sequence[nn.Parameter], *, measure: bool = False) -> dict[str, Tensor]:
        self.calls.append(tuple(p.data_ptr() for p in parameters))
        return self.rule.clip(parameters, measure=measure)
