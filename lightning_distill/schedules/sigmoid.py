"""A factor that grows like one half of a sigmoid."""

from __future__ import annotations

import math

from lightning_distill.errors import ConfigError
from lightning_distill.schedules.base import Schedule


class SigmoidRamp(Schedule):
    """high * (2 / (1 + exp(-sharpness * p)) - 1), where p = step / steps, at most 1.

    It starts at 0 with slope high * sharpness / 2, and ends at high * tanh(sharpness / 2).

    Args:
        steps: Optimizer steps until p = 1; in the paper, those of the whole training.
        high: What it goes towards.
        sharpness: Above 0; 10 in the paper.

    Raises:
        ConfigError: If there is less than one step, or the sharpness is not a positive number.

    Source: Ganin et al., Domain-Adversarial Training of Neural Networks (1505.07818), section 5.2, where
    gamma is `sharpness` and `high` is 1. Transfer-Learning-Library counts 1000 iterations at a sharpness of 1
    and goes on after them, which is `steps=10_000` here for its first 10,000 steps.

    >>> ramp = SigmoidRamp(steps=100)
    >>> [round(ramp(step, epoch=0), 3) for step in (0, 10, 50, 100, 999)]
    [0.0, 0.462, 0.987, 1.0, 1.0]
    """

    def __init__(self, steps: int = 1000, high: float = 1.0, sharpness: float = 10.0) -> None:
        if steps < 1 or not 0 < sharpness < math.inf or not math.isfinite(high):
            raise ConfigError(
                where="SigmoidRamp",
                found=f"steps {steps}, high {high}, sharpness {sharpness}",
                expected="1 step or more, a finite number, and a sharpness above 0",
                fix="set steps to the optimizer steps of the training; high 1.0 and sharpness 10.0 are the"
                " paper's",
            )
        self.steps, self.high, self.sharpness = steps, high, sharpness

    def __call__(self, step: int, epoch: int) -> float:
        """The factor at this step."""
        share = min(step / self.steps, 1.0)
        return self.high * math.tanh(self.sharpness * share / 2)  # tanh(x / 2) = 2 / (1 + exp(-x)) - 1
