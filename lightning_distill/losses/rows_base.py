"""The base of terms that apply another term to some of the rows."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_distill.batch_rows import some_samples
from lightning_distill.losses.base import DistillationLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput


class RowsLoss(DistillationLoss):
    """loss(student_R, teacher_R, batch_R), where R are some of the rows; 0 where there is none.

    Args:
        loss: The term. What it trains is part of it.
    """

    def __init__(self, loss: DistillationLoss) -> None:
        super().__init__()
        self.loss = loss
        self.suits, self.needs_teacher = loss.suits, loss.needs_teacher  # type: ignore[misc]
        self.reads_domains = type(self).reads_domains or loss.reads_domains  # type: ignore[misc]

    @abstractmethod
    def chosen(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """Which rows the term is for: bool "batch"."""

    @property
    def gather(self) -> bool:
        """Whether the term waits for the rows of other processes."""
        return bool(getattr(self.loss, "gather", False))

    @property
    def student_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the term."""
        return self.loss.student_layers

    @property
    def teacher_layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the term."""
        return self.loss.teacher_layers

    def adapt(self, student: Shapes, teacher: Shapes) -> None:
        """Tell the term."""
        self.loss.adapt(student, teacher)

    def begin_step(self, step: int, epoch: int) -> None:
        """Tell the term."""
        self.loss.begin_step(step, epoch)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """0-d tensor."""
        rows = self.chosen(student, teacher, batch).nonzero()[:, 0]
        if not len(rows) and not self.gather:  # other processes may wait to gather
            # A gradient of 0 for what the term trains too: DDP and FSDP wait for every parameter.
            reached = (student.logits, *self.parameters())
            return torch.cat([x.flatten()[:0] for x in reached]).sum().to(student.logits.dtype)
        theirs = None if teacher is None else teacher.rows(rows)
        value: Tensor = self.loss(student.rows(rows), theirs, some_samples(batch, rows))
        return value
