"""AutoClip: the bound is a percentile of the norms so far."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients

_UNFILLED: Final = float("nan")


class AutoClip(ClipRule):
    """g <- g * min(1, M_t / n_t), where M_t = percentile_p(n_1, ..., n_t).

    n_t is the 2-norm of all gradients together at step t. Percentiles are interpolated linearly. Norms enter
    unclipped, this step's among them, so the first step is never clipped. While norms are stationary, all but
    p in a hundred steps are clipped: at p = 10 the rule is close to steps of one length.

    A step whose norm is 0 or not finite passes as it is and does not enter: zeros would pull M_t down to 0
    and end training, one NaN would make M_t NaN for ever.

    Args:
        percentile: p, from 0 (the smallest norm) to 100 (the largest).
        window: How many of the latest norms are kept: 4 bytes each, sorted each step.

    Raises:
        ConfigError: If percentile is outside [0, 100], or window is below 1.

    Source: Seetharaman et al., AutoClip (2007.14469), algorithm 1. The paper keeps all norms; so does this
    for the first `window` steps. The authors' version for TensorFlow clips each tensor by itself to the
    bound of the whole, which is another rule.

    >>> rule, weight = AutoClip(percentile=50), torch.nn.Parameter(torch.zeros(2))
    >>> for size in (1.0, 3.0):
    ...     weight.grad = torch.tensor([0.0, size])
    ...     report = rule.clip([weight])
    >>> weight.grad.tolist()
    [0.0, 2.0]
    """

    norms: Tensor
    seen: Tensor

    def __init__(self, percentile: float = 10.0, window: int = 10_000) -> None:
        super().__init__()
        if not 0 <= percentile <= 100:
            raise ConfigError(
                where="AutoClip.percentile", found=percentile, expected="a number from 0 to 100", fix="try 10"
            )
        if window < 1:
            raise ConfigError(where="AutoClip.window", found=window, expected="1 or more", fix="try 10000")
        self.percentile, self.window = percentile, window
        self.register_buffer("norms", torch.full((window,), _UNFILLED))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale all alike; reports the `norm` before and the `coefficient`."""
        if self.seen.device != gradients.device:
            self.to(gradients.device)
        norm = gradients.norm()
        if gradients.fresh:
            self._append(norm.float())
        bound = torch.nanquantile(self.norms, self.percentile / 100)
        # Nothing is above a bound of NaN: no norm has entered yet.
        clipped = torch.where(norm.isfinite() & (norm > bound), bound, norm)
        coefficient = torch.where(clipped < norm, clipped / norm, 1.0)
        gradients.scale(coefficient)
        return ClipReport({"norm": norm, "coefficient": coefficient})

    def _append(self, norm: Tensor) -> None:
        """Over the oldest of the norms, once all places are taken."""
        enters = norm.isfinite() & (norm > 0)
        place = (self.seen % self.window)[None]
        self.norms.index_copy_(0, place, torch.where(enters, norm, self.norms[place]))
        self.seen.add_(enters)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"percentile={self.percentile}, window={self.window}"
