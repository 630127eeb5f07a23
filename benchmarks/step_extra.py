"""What the library adds to a Trainer's step beside the computation of the terms, on tiny models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import step_parts as parts
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill import DistillationModule
from lightning_distill.clipping import ValueClip
from lightning_distill.losses import DistillationLoss, LogitKD
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch
from lightning_distill.tasks import Classification
from lightning_distill.teachers import FrozenTeacher

TERMS = (2, 5, 10)
BOUND = 1.0


class SameTerms(LightningModule):
    """The same models and terms, added up in one sum; Lightning clips."""

    def __init__(
        self, student: MultimodalModel, teacher: MultimodalModel, losses: Mapping[str, DistillationLoss]
    ) -> None:
        super().__init__()
        self.student, self.losses = student, nn.ModuleList(losses.values())
        self.task, self._teacher = Classification(), (teacher.eval().requires_grad_(False),)
        self.weights = torch.ones(len(losses) + 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        student = self.student(batch)
        with torch.no_grad():
            teacher = self._teacher[0](batch)
        terms = [self.task.loss(student.logits, batch["target"])]
        terms += [loss(student, teacher, batch) for loss in self.losses]
        return (torch.stack(terms) * self.weights).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=parts.RATE)


def tiny() -> MultimodalModel:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8))
    return MultimodalModel({"image": parts.Backbone(network, 8)}, parts.CLASSES)


def added(terms: int, rounds: int, folder: Path) -> dict[str, float]:
    """Microseconds a step: the lower quartile of ours minus that of the other, over blocks of 50 steps.

    A block holds one step that logs. What disturbs a machine only ever adds to a block, so quiet ones tell.
    The least and the largest are those of three thirds of the blocks.

    Args:
        terms: How many, with the task's own loss.
        rounds: How many.
        folder: For what the Trainer writes.
    """
    torch.manual_seed(0)
    losses = {f"kd{i}": LogitKD(2.0 + i) for i in range(terms - 1)}
    student, teacher = tiny(), tiny()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (parts.BATCH * 50, 3, 4, 4)).astype(np.uint8)
    labels = rng.integers(0, parts.CLASSES, len(images))

    def data() -> Any:
        return parts.our_data(images, labels)

    ours = DistillationModule(
        copy.deepcopy(student),
        FrozenTeacher(copy.deepcopy(teacher)),
        copy.deepcopy(losses),
        clip_rule=ValueClip(BOUND),
        optimizer=partial(torch.optim.SGD, lr=parts.RATE),
    )
    plain = SameTerms(student, teacher, losses)
    clips: dict[str, Any] = {"gradient_clip_val": BOUND, "gradient_clip_algorithm": "value"}
    times = parts.in_turns(
        {
            "ours": parts.fitting(ours, data(), folder),
            "plain": parts.fitting(plain, data(), folder, **clips),
        },
        rounds,
        steps=50,
    )
    blocks = {name: 1e3 * found.reshape(-1) for name, found in times.items()}
    thirds = [_more(blocks["ours"][at::3], blocks["plain"][at::3]) for at in range(3)]
    return {"median": _more(blocks["ours"], blocks["plain"]), "min": min(thirds), "max": max(thirds)}


def _more(ours: NDArray[np.float64], plain: NDArray[np.float64]) -> float:
    return float(np.quantile(ours, 0.25) - np.quantile(plain, 0.25))
