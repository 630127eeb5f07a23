"""A feature clip that keeps the direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping.base import FeatureClip


class NormBallClip(FeatureClip):
    """x_clip = x * min(1, r / |x|_2), row by row.

    The gradient is that of the formula: beyond the ball (r / |x|) * (I - x x^T / |x|^2), which turns a row
    but neither lengthens nor shortens it. Rows inside the ball are left as they are, to the last bit. A row
    that holds NaN or infinity becomes NaN.

    Args:
        radius: The bound r on the 2-norm of each row, in units of the feature; positive. A row of d entries
            of standard deviation 1 has a norm of about sqrt(d).

    Raises:
        ConfigError: If the radius is not a positive number.

    Source: the Euclidean projection onto a ball: Parikh and Boyd, Proximal Algorithms (2014), section 6.5.1.

    >>> NormBallClip(1.0)(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.30000001192092896, 0.4000000059604645], [0.0, 0.0]]
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        if not (math.isfinite(radius) and radius > 0):
            raise ConfigError(
                where="NormBallClip.radius", found=radius, expected="a positive number", fix="try 10.0"
            )
        self.radius = radius

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        norm, radius = self._norm(x)
        return (x * (radius / norm.maximum(radius))).to(x.dtype)

    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """All entries of rows with |x|_2 > r."""
        norm, radius = self._norm(x)
        return (norm > radius).expand_as(x)

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"radius={self.radius}"

    def _norm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Norm and radius of each row, "batch 1", both divided by what keeps the squares from overflowing."""
        wide = torch.promote_types(x.dtype, torch.float32)
        size = x.detach().to(wide).abs().amax(dim=-1, keepdim=True).clamp(min=1)
        return torch.linalg.vector_norm(x.to(wide) / size, dim=-1, keepdim=True), self.radius / size
