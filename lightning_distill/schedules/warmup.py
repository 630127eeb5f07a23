"""A weight that grows over the first epochs."""

from __future__ import annotations

import math

from lightning_distill.errors import ConfigError
from lightning_distill.schedules.base import Schedule


class LinearWarmup(Schedule):
    """weight * min((epoch + 1) / epochs, 1), the first epoch being 0.

    Args:
        weight: Reached in epoch number `epochs`.
        epochs: 1 or more.

    Raises:
        ConfigError: If there is less than one epoch, or the weight is negative or not finite.

    Source: Zhao et al., Decoupled Knowledge Distillation (2203.08679), the authors' training settings.

    >>> [LinearWarmup(8.0, epochs=4)(step=0, epoch=e) for e in range(5)]
    [2.0, 4.0, 6.0, 8.0, 8.0]
    """

    def __init__(self, weight: float = 1.0, epochs: int = 20) -> None:
        if epochs < 1:
            raise ConfigError(
                where="LinearWarmup.epochs",
                found=epochs,
                expected="1 or more",
                fix="give a plain weight",
            )
        if not 0 <= weight < math.inf:
            raise ConfigError(
                where="LinearWarmup.weight",
                found=weight,
                expected="a finite number of 0 or more",
                fix="give the weight that the last epochs have, for example 1.0",
            )
        self.weight, self.epochs = weight, epochs

    def __call__(self, step: int, epoch: int) -> float:
        """The weight in this epoch."""
        return self.weight * min((epoch + 1) / self.epochs, 1.0)
