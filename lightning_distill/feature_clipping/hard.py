"""The paper's feature clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_distill.feature_clipping.base import ElementwiseClip


class HardClip(ElementwiseClip):
    """x_clip = clip(x, -eps, eps), entry by entry.

    The gradient is 1 where |x| <= eps and 0 beyond, so a saturated entry stops learning: watch
    `saturated_share`. Where one range serves features of several sizes, the largest is starved: of a
    normal feature with deviation sigma, erf(eps / (sigma * sqrt(2))) of the entries still learn. NaN passes
    through, without gradient.

    Args:
        epsilon: The bound eps, in units of the feature or in `unit`; positive.
        unit: What an epsilon of 1 means, measured on the feature itself; None is the feature's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: the method's fused-feature clip, x_clip = clip(x, -eps, eps). It leaves the gradient on the
    bound open, where libraries, and versions of `torch.clamp`, have 1, one half or 0.

    >>> import torch
    >>> HardClip(1.0)(torch.tensor([[-3.0, 0.5]])).tolist()
    [[-1.0, 0.5]]
    """

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        bound: Any = self.bound(x, present, fresh and self.training)
        clipped = x.clamp(-bound, bound)
        return torch.where(clipped == x, x, clipped.detach())
