"""The contract of a unit: what a range of 1 means for the tensors that are clipped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_distill.history import History

Total = Callable[[Tensor], Tensor]
"""Adds up, entry by entry, what several processes found on their parts of split tensors."""


class Unit(History, ABC):
    """Measures tensors, so that a range need not be given in their own, unknown, size.

    History, where a unit has one, lives in buffers and so in checkpoints; it is float32 whatever the model
    is, and what is not finite never enters it.
    """

    @abstractmethod
    def forward(self, tensors: Sequence[Tensor], *, fresh: bool = True, total: Total | None = None) -> Tensor:
        """What 1 is now.

        Args:
            tensors: One or more, of any shapes; they are taken together.
            fresh: Whether history may move; False where the same step is looked at again, and in evaluation.
            total: Where the tensors are parts of split ones; a unit calls it on sums.

        Returns:
            0-d float32 tensor on the tensors' device, positive and finite; found without synchronisation.
        """
