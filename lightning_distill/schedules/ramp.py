"""A weight that goes from one value to another."""

from __future__ import annotations

import math

from lightning_distill.errors import ConfigError
from lightning_distill.schedules.base import Schedule


class CosineRamp(Schedule):
    """start + (end - start) * (1 - cos(pi * p)) / 2, where p = (step - first) / (last - first) in [0, 1].

    From small to large it is a warm-up, from large to small it takes the teacher away.

    Args:
        start: Weight up to step `first`.
        end: Weight from step `last` on.
        first: Optimizer step.
        last: Optimizer step, after `first`.

    Raises:
        ConfigError: If `last` does not come after `first`.

    >>> ramp = CosineRamp(start=1.0, end=0.0, first=100, last=200)
    >>> [round(ramp(step, epoch=0), 2) for step in (0, 100, 150, 200, 999)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, start: float, end: float, first: int, last: int) -> None:
        if not 0 <= first < last:
            raise ConfigError(
                where="CosineRamp",
                found=f"first {first} and last {last}",
                expected="steps with 0 <= first < last",
                fix="count optimizer steps, not samples",
            )
        self.start, self.end, self.first, self.last = start, end, first, last

    def __call__(self, step: int, epoch: int) -> float:
        """The weight at this step."""
        share = min(max((step - self.first) / (self.last - self.first), 0.0), 1.0)
        return self.start + (self.end - self.start) * (1 - math.cos(math.pi * share)) / 2
