"""The contract of a weight that changes during training."""

from __future__ import annotations

from abc import ABC, abstractmethod


class WeightSchedule(ABC):
    """Weight of a term as a function of where training is, never of what ran before."""

    @abstractmethod
    def __call__(self, step: int, epoch: int) -> float:
        """The weight.

        Args:
            step: Optimizer steps taken, 0 in the first.
            epoch: Epochs completed, 0 in the first.
        """
