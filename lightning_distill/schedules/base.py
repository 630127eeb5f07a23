"""The contract of a number that changes during training: a term's weight, or a range of a clip rule."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """A number as a function of where training is, never of what ran before."""

    @abstractmethod
    def __call__(self, step: int, epoch: int) -> float:
        """The number now.

        Args:
            step: Optimizer steps taken, 0 in the first.
            epoch: Epochs completed, 0 in the first.
        """


def value_at(value: float | Schedule, step: int, epoch: int) -> float:
    """A fixed number, or a schedule's number now.

    Args:
        value: Either.
        step: Optimizer steps taken.
        epoch: Epochs completed.
    """
    return value(step, epoch) if isinstance(value, Schedule) else value
