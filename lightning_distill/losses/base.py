"""The contract of a distillation term: what the student should take over from the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from lightning_distill.structures import Batch, ModelOutput


class DistillationLoss(nn.Module, ABC):
    """Reads two `ModelOutput`s and returns a scalar.

    It holds neither the task loss nor its own weight: `DistillationModule` sums weighted terms. Adaptors
    (projectors, discriminators) are sub-modules, so that they reach optimizer and checkpoint.
    """

    needs_classes: ClassVar[bool] = False
    """Whether it takes the logits for classes that exclude each other."""

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """Compare.

        Args:
            student: With gradient.
            teacher: Without gradient.
            batch: What both saw.

        Returns:
            0-d tensor, averaged over the batch.
        """
