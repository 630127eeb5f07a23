"""ZClip: a norm far above its running mean is a spike."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients

_SMALLEST_DEVIATION: Final = 1e-6
_FARTHEST: Final = 10.0


class ZClip(ClipRule):
    """g <- g * min(1, n* / n), where n* = n unless n is a spike.

    With n the 2-norm of all gradients together:

        z  = (n - mean) / (deviation + 1e-6 * mean)
        n* = mean + threshold * deviation / (z / threshold)   if z > threshold
        mean     <- alpha * mean + (1 - alpha) * n*
        variance <- alpha * variance + (1 - alpha) * (n* - mean)^2, with the new mean

    The farther out a spike, the closer to the mean it is brought. So a lasting jump of the norms is held
    down like a spike, for good. The first `warmup` norms pass and give the first mean and variance; among
    them, what is above 10 times their median counts as 10 times the median.

    A step whose norm is 0 or not finite passes as it is and does not enter.

    Args:
        alpha: How much of mean and variance stays each step, from 0 to below 1.
        threshold: From which z on a norm is a spike; positive.
        warmup: Steps that pass, 2 or more.
        max_norm: A bound beside it, also in the warm-up; none by default.

    Raises:
        ConfigError: If an argument is out of range.

    Source: Kumar et al., ZClip (2504.02507), section 3, with reciprocal clipping. The authors' code bounds
    all norms by 1 unless told otherwise; has an absolute 1e-6, which hides spikes where norms are about 1e-6;
    and takes the warm-up as it is, so that one norm of 1e4 among norms of 1 leaves it blind for long.

    >>> rule, weight = ZClip(warmup=3), torch.nn.Parameter(torch.zeros(1))
    >>> for size in (0.9, 1.0, 1.1, 2.0, 20.0):
    ...     weight.grad = torch.tensor([size])
    ...     report = rule.clip([weight])
    >>> round(weight.grad.item(), 3)
    1.003
    """

    norms: Tensor
    seen: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, alpha: float = 0.97, threshold: float = 2.5, warmup: int = 25, max_norm: float | None = None
    ) -> None:
        super().__init__()
        _check(alpha, threshold, warmup, max_norm)
        self.alpha, self.threshold, self.warmup, self.max_norm = alpha, threshold, warmup, max_norm
        self.register_buffer("norms", torch.full((warmup,), math.nan))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.zeros(()))

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale all alike; reports the `norm` before and the `coefficient`."""
        if self.seen.device != gradients.device:
            self.to(gradients.device)
        norm = gradients.norm()
        warming = self.seen < self.warmup
        held = torch.where(warming, norm, self._held(norm))
        if gradients.fresh:
            self._move(norm.float(), held.float(), warming)
        clipped = held if self.max_norm is None else held.clamp(max=self.max_norm)
        clipped = torch.where(norm.isfinite(), clipped, norm)
        coefficient = torch.where(clipped < norm, clipped / norm, 1.0)
        gradients.scale(coefficient)
        return ClipReport({"norm": norm, "coefficient": coefficient})

    def _held(self, norm: Tensor) -> Tensor:
        """n*, once mean and deviation are known."""
        z = (norm - self.mean) / (self.deviation + _SMALLEST_DEVIATION * self.mean)
        held = self.mean + self.threshold * self.deviation / (z / self.threshold)
        return torch.where(z > self.threshold, torch.minimum(held, norm), norm)

    def _move(self, norm: Tensor, held: Tensor, warming: Tensor) -> None:
        enters = norm.isfinite() & (norm > 0)
        place = self.seen.clamp(max=self.warmup - 1)[None]
        self.norms.index_copy_(0, place, torch.where(enters & warming, norm, self.norms[place]))
        first_mean, first_deviation = _mean_and_deviation(self.norms)
        mean = torch.where(warming, first_mean, self.mean.lerp(held, 1 - self.alpha))
        # hypot, where squares of large norms would leave float32.
        later = torch.hypot(self.deviation * math.sqrt(self.alpha), (held - mean) * math.sqrt(1 - self.alpha))
        deviation = torch.where(warming, first_deviation, later)
        enters = enters & mean.isfinite() & deviation.isfinite()
        self.mean.copy_(torch.where(enters, mean, self.mean))
        self.deviation.copy_(torch.where(enters, deviation, self.deviation))
        self.seen.add_(enters)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"alpha={self.alpha}, threshold={self.threshold}, warmup={self.warmup}, max_norm={self.max_norm}"
        )


def _mean_and_deviation(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Of the norms that are there, with far ones brought to 10 times the median."""
    median = norms.nanmedian()
    parts = (norms / median).clamp(max=_FARTHEST)
    mean = parts.nanmean()
    return median * mean, median * (parts - mean).square().nanmean().sqrt()


def _check(alpha: float, threshold: float, warmup: int, max_norm: float | None) -> None:
    faults = [
        ("alpha", alpha, 0 <= alpha < 1, "a number from 0 to below 1", 0.97),
        ("threshold", threshold, 0 < threshold < math.inf, "a positive number", 2.5),
        ("warmup", warmup, warmup >= 2, "2 steps or more", 25),
        ("max_norm", max_norm, max_norm is None or 0 < max_norm < math.inf, "a positive number or none", 1.0),
    ]
    for name, found, fits, expected, usual in faults:
        if not fits:
            raise ConfigError(where=f"ZClip.{name}", found=found, expected=expected, fix=f"try {usual}")
