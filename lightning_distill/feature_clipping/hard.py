"""The paper's feature clip."""

from __future__ import annotations

import math

from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping.base import FeatureClip


class HardClip(FeatureClip):
    """x_clip = clip(x, -eps, eps), entry by entry.

    The gradient is 1 where |x| < eps and 0 where |x| > eps (on the bound itself torch's versions differ), so
    a saturated entry stops learning: watch `saturated_share`. NaN passes through.

    Args:
        epsilon: The bound eps, in units of the feature; positive.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: the method's fused-feature clip, x_clip = clip(x, -eps, eps).

    >>> import torch
    >>> HardClip(1.0)(torch.tensor([[-3.0, 0.5]])).tolist()
    [[-1.0, 0.5]]
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ConfigError(
                where="HardClip.epsilon", found=epsilon, expected="a positive number", fix="try 3.0"
            )
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Clip x, "batch dim"."""
        return x.clamp(-self.epsilon, self.epsilon)

    def saturated_share(self, x: Tensor) -> Tensor:
        """Share of entries with |x| > eps."""
        return (x.abs() > self.epsilon).float().mean()

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"epsilon={self.epsilon}"
