"""Any term, on the rows of the target domain alone."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_distill.batch_rows import in_target_domain
from lightning_distill.losses.rows_base import RowsLoss
from lightning_distill.structures import Batch, ModelOutput


class OnTarget(RowsLoss):
    """loss(student_T, teacher_T, batch_T), where T are the rows of the target domains; 0 where there is none.

    For a teacher that knows the new domain, or whose answers in the old one, which has labels, are not
    needed.

    Args:
        loss: The term. What it trains is part of it.

    Source: composition; no formula of its own.
    """

    reads_domains: ClassVar[bool] = True

    def chosen(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """Those of the target domains: bool "batch"."""
        return in_target_domain(batch)
