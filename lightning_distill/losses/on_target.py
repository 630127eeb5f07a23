"""Any term, on the rows of the target domain alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.batch_rows import in_target_domain, some_samples
from lightning_distill.losses.base import DistillationLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput


class OnTarget(DistillationLoss):
    """loss(student_T, teacher_T, batch_T), where T are the rows of the target domains; 0 where there is none.

    For a teacher that knows the new domain, or whose answers in the old one, which has labels, are not
    needed.

    Args:
        loss: The term. What it trains is part of it.

    Source: composition; no formula of its own.
    """

    reads_domains: ClassVar[bool] = True

    def __init__(self, loss: DistillationLoss) -> None:
        super().__init__()
        self.loss = loss
        self.suits, self.needs_teacher = loss.suits, loss.needs_teacher  # type: ignore[misc]

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
        rows = in_target_domain(batch).nonzero()[:, 0]
        if not len(rows) and not getattr(self.loss, "gather", False):  # other processes may wait to gather
            # A gradient of 0 for what the term trains too: DDP and FSDP wait for every parameter.
            reached = (student.logits, *self.parameters())
            return torch.cat([x.flatten()[:0] for x in reached]).sum().to(student.logits.dtype)
        chosen = None if teacher is None else teacher.rows(rows)
        value: Tensor = self.loss(student.rows(rows), chosen, some_samples(batch, rows))
        return value
