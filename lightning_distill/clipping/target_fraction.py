"""A value clip whose range follows a target share of clipped entries."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.units.quantile import log_quantile, sample

_FIRST: Final = 2**12
"""Entries that the first range is taken from: few, since an accelerator looks at them in every step."""


class TargetFractionClip(ClipRule):
    """g <- clip(g, -eps, eps); then eps <- eps * exp(rate * (f - share)).

    f is the share of entries with |g| > eps before the clip; entries that are exactly zero do not count,
    as no range says anything about them. Of more than 65 536 entries f is found on a sample: see
    `lightning_distill.units.quantile.sample`. eps starts at the (1 - share)-quantile of |g| in the first
    step.

    As in `ValueClip`, NaN passes through and an infinite entry becomes +-eps; a step in whose sample there
    is such an entry leaves eps as it is.

    Args:
        share: Of entries to clip, in (0, 1).
        rate: Of the feedback, above 0 and at most 10. However large a step is, it moves eps by no more than
            exp(rate * (1 - share)).

    Raises:
        ConfigError: If share or rate is out of its range.

    Source: the geometric update of Andrew et al., Differentially Private Learning with Adaptive Clipping
    (1905.03871), section 2, there for the norms of clients' updates, with noise for privacy.

    >>> w = torch.nn.Parameter(torch.zeros(100)); w.grad = torch.arange(1.0, 101.0)
    >>> report = TargetFractionClip(share=0.1).clip([w])
    >>> round(report.values["epsilon"].item(), 1), round(report.values["clipped_share"].item(), 2)
    (90.1, 0.1)
    """

    log_epsilon: Tensor
    begun: Tensor

    def __init__(self, share: float = 0.05, rate: float = 1.0) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ConfigError(
                where="TargetFractionClip.share", found=share, expected="between 0 and 1", fix="try 0.05"
            )
        if not 0 < rate <= 10:
            raise ConfigError(
                where="TargetFractionClip.rate", found=rate, expected="above 0 and at most 10", fix="try 1.0"
            )
        self.share, self.rate = share, rate
        self.register_buffer("log_epsilon", torch.zeros(()))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))  # whether there is an eps

    def edit(self, gradients: Gradients) -> ClipReport:
        """Clamp by the range so far, then move it; reports `epsilon` as used and `clipped_share`, f."""
        log_epsilon = self._begun(gradients)
        epsilon = torch.where(log_epsilon.isfinite(), log_epsilon.exp(), torch.inf)
        found, good = _share_above(gradients, epsilon)
        if gradients.fresh:
            moved = log_epsilon + self.rate * (found - self.share)
            good &= moved.isfinite()
            self.log_epsilon.copy_(torch.where(good, moved, self.log_epsilon.to(moved.device)))
            self.begun.copy_(good | self.begun.to(moved.device))
        gradients.clamp(epsilon)
        return ClipReport({"epsilon": epsilon, "clipped_share": found})

    def _begun(self, gradients: Gradients) -> Tensor:
        """log(eps); of this step's gradients where there is none yet. An accelerator is not asked which."""
        log_epsilon, begun = self.log_epsilon.to(gradients.device), self.begun.to(gradients.device)
        if begun.device.type == "cpu" and begun:
            return log_epsilon
        first = log_quantile(gradients.local, 1 - self.share, gradients.total, _FIRST)
        return torch.where(begun, log_epsilon, first)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"share={self.share}, rate={self.rate}"


def _share_above(gradients: Gradients, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """f, and whether it says anything."""
    entries = sample(gradients.local).abs().float()
    bad = ~entries.amax().isfinite() if len(entries) else torch.zeros_like(epsilon)
    row = torch.stack([(entries > epsilon).sum(), (entries > 0).sum(), bad]).float()
    if gradients.splits:
        at = gradients.splits[0][1][0]  # every tensor's row is the same; one that is split has the sum
        row = gradients.total(row.expand(len(gradients), 3))[at]
    above, counted, bad = row
    return above / counted.clamp(min=1), (counted > 0) & (bad == 0)
