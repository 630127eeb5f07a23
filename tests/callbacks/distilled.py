"""Terms and teachers for `Distill`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.callbacks import Distill
from lightning_distill.losses import AdaptedLoss, LogitKD
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import Teacher


class Project(AdaptedLoss):
    """A hint with an adaptor."""

    def build(self, student: Any, teacher: Any) -> None:
        self.project = nn.Linear(student[0][0], teacher[0][0])

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        ((s, t),) = self.pairs(student, teacher, batch)
        return (self.project(s) - t).square().mean()


class Following(Teacher):
    """Remembers how often it was told to follow, and moves its answer a little each time."""

    def __init__(self) -> None:
        self.begun, self.steps = 0, torch.zeros(())

    def __call__(self, batch: Batch) -> ModelOutput:
        return ModelOutput(self.steps + batch["inputs"]["input"][:, :3])

    def to(self, device: torch.device) -> None:
        self.steps = self.steps.to(device)

    def tensors(self) -> Iterator[Tensor]:
        return iter([self.steps])

    def read_layers(self, names: Sequence[str]) -> None:
        assert not names

    def begin(self, student: nn.Module) -> None:
        self.begun += 1

    def after_step(self, student: nn.Module, step: int) -> None:
        self.steps = self.steps + 0.1

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps = state["steps"]


def make_teacher() -> nn.Module:
    """A wider network, in train mode as it was left."""
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 3))


def make_distill(teacher: Any = None, hint: bool = True, **options: Any) -> Distill:
    """KD, and a hint whose adaptor is built from what is seen."""
    losses: dict[str, Any] = {"kd": LogitKD()}
    if hint:
        losses["hint"] = Project(["features.2"], ["1"])
    weights = {"task": 0.5, "kd": 2.0}
    return Distill(teacher or make_teacher(), losses, weights, **({"logits": "head"} | options))
