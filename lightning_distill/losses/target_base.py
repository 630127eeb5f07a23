"""The contract of a term on what the student says of the target domain."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from lightning_distill.batch_rows import in_target_domain
from lightning_distill.losses.base import DistillationLoss, gather_rows
from lightning_distill.structures import Batch, ModelOutput, Outputs


class TargetLoss(DistillationLoss):
    """A term on the logits of the rows of the target domains.

    It needs neither teacher nor label, and combines with any other term. Where a batch holds no such row, the
    term is 0 with a gradient of 0.

    Args:
        gather: Whether each process reads the rows of all processes, as relations between samples need.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})
    needs_teacher: ClassVar[bool] = False
    reads_domains: ClassVar[bool] = True

    def __init__(self, gather: bool = False) -> None:
        super().__init__()
        self.gather = gather

    @abstractmethod
    def measure(self, logits: Tensor) -> Tensor:
        """The term.

        Args:
            logits: "rows classes", of one row or more.

        Returns:
            0-d tensor.
        """

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """0-d tensor."""
        logits, rows = student.logits, in_target_domain(batch)
        if self.gather:
            logits, rows = gather_rows(logits), gather_rows(rows.long()).bool()
        logits = logits[rows]
        return self.measure(logits) if len(logits) else logits.sum()
