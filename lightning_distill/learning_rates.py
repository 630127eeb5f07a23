"""Learning rates over time, beside those of torch."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_distill.errors import ConfigError


class WarmupCosine(LRScheduler):
    """A linear rise, then half a cosine down.

    rate(t) = base * (t + 1) / (W + 1)                                   for t < W
    rate(t) = base * (f + (1 - f) * (1 + cos(pi * (t - W) / (T - W))) / 2)  for W <= t <= T, then base * f

    Args:
        optimizer: Each group has a base rate of its own.
        warmup_steps: W, in steps of the scheduler: optimizer steps with `scheduler_interval: step`, or
            epochs.
        total_steps: T; None is the whole training, which `DistillationModule` fills in.
        final_share: f, share of the base rate at the end.
        last_epoch: As for torch's schedulers.

    Raises:
        ConfigError: If the warm-up is not shorter than the whole, or the share is outside [0, 1].

    Source: Loshchilov and Hutter, SGDR (1608.03983), equation 5, one cycle, with a warm-up.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> schedule, rates = WarmupCosine(optimizer, warmup_steps=1, total_steps=5), []
    >>> for _ in range(6):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 2))
    ...     optimizer.step(); schedule.step()
    >>> rates
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int | None = None,
        final_share: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if warmup_steps < 0 or not 0 <= final_share <= 1:
            raise ConfigError(
                where="WarmupCosine",
                found=f"warmup_steps {warmup_steps} and final_share {final_share}",
                expected="0 steps or more, and a share from 0 to 1",
                fix="for example warmup_steps 100 and final_share 0",
            )
        self.warmup_steps, self.final_share = warmup_steps, final_share
        self.total_steps: int | None = None
        if total_steps is not None:
            self.end_at(total_steps)
        super().__init__(optimizer, last_epoch)

    def end_at(self, total_steps: int) -> None:
        """Say how long training is.

        Args:
            total_steps: T.

        Raises:
            ConfigError: If the warm-up is not shorter.
        """
        if not self.warmup_steps < total_steps:
            raise ConfigError(
                where="WarmupCosine.warmup_steps",
                found=f"{self.warmup_steps} of {total_steps} steps",
                expected="fewer than all",
                fix="shorten it or train longer; with `scheduler_interval: epoch` a step is an epoch",
            )
        self.total_steps = total_steps

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group now."""
        return [base * self._share(self.last_epoch) for base in self.base_lrs]

    def _share(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if step == self.warmup_steps:
            return 1.0
        if self.total_steps is None:
            raise ConfigError(
                where="WarmupCosine.total_steps",
                found="nothing",
                expected="the number of steps of the whole training",
                fix="give it, or train with DistillationModule, which fills it in",
            )
        done = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
