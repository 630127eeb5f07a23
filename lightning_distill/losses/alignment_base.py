"""The contract of a domain alignment term: what should be alike in the source and the target domain."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.batch_rows import in_target_domain
from lightning_distill.losses.base import DistillationLoss, gather_rows, rows_there
from lightning_distill.structures import Batch, ModelOutput


class AlignmentLoss(DistillationLoss):
    """A term between a layer's rows of the source domains and those of the target domains.

    It needs no teacher and no label of the target, and combines with any other term. Rows in which the
    modality named by "features.<modality>" is absent are left out. Where a batch holds rows of one side only,
    the term is 0 with a gradient of 0.

    Args:
        layer: Name of the student's layer, see `ModelOutput.at`: the fused feature, one modality's, the
            logits, or a module's output, which is flattened to one vector a row.
        gather: Whether each process compares the rows of all processes.
    """

    needs_teacher: ClassVar[bool] = False
    reads_domains: ClassVar[bool] = True

    def __init__(self, layer: str = "embedding", gather: bool = False) -> None:
        super().__init__()
        self.student_layers, self.gather = (layer,), gather

    @abstractmethod
    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """The term.

        Args:
            source: "n dim", n >= 1.
            target: "m dim", m >= 1, not necessarily n.

        Returns:
            0-d tensor.
        """

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> Tensor:
        """0-d tensor."""
        source, target = self.sides(student.at(self.student_layers[0]), student, batch)
        if not len(source) or not len(target):
            return source[:0].sum() + target[:0].sum()
        return self.align(source, target)

    def sides(self, x: Tensor, student: ModelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the source domains "n dim" and of the target domains "m dim".

        Args:
            x: "batch ...", of the student's layer.
            student: Tells what it has read: modality dropout leaves zeros in the place of features.
            batch: What was answered.
        """
        target = in_target_domain(batch)
        there = rows_there(self.student_layers, {**batch["present"], **student.present})
        source = ~target
        if there is not None:
            source, target = source & there, target & there
        x = x.flatten(1)
        if self.gather:
            x = gather_rows(x)
            source, target = gather_rows(torch.stack([source, target], dim=1).long()).bool().unbind(dim=1)
        return x[source], x[target]
