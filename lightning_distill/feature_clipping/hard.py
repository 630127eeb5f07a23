"""The paper's feature clip."""

from __future__ import annotations

from typing import Any

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

    Source: the method's fused-feature clip, x_clip = clip(x, -eps, eps); on the bound the gradient is
    that of `torch.clamp`, 1, where other libraries have 0 or one half.

    >>> import torch
    >>> HardClip(1.0)(torch.tensor([[-3.0, 0.5]])).tolist()
    [[-1.0, 0.5]]
    """

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Clip x, "batch dim"."""
        bound: Any = self.bound(x, present, fresh=self.training)
        return x.clamp(-bound, bound)
