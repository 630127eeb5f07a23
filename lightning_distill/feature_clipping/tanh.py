"""A smooth feature clip."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_distill.feature_clipping.base import ElementwiseClip


class TanhClip(ElementwiseClip):
    """x_clip = eps * tanh(x / eps), entry by entry.

    Smooth, and within the bound everywhere, but it shrinks what lies inside too (0.5 eps to 0.46 eps). The
    gradient is 1 - tanh(x / eps)^2: 0.42 at eps, 0.01 at 3 eps, so an entry far out hardly comes back.
    Entries beyond eps count as saturated.

    Args:
        epsilon: The bound eps, in units of the feature or in `unit`; positive.
        unit: What an epsilon of 1 means, measured on the feature itself; None is the feature's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: Bello et al., Neural Combinatorial Optimization with Reinforcement Learning (1611.09940),
    appendix A.1, C * tanh(u) on logits; here with slope 1 at 0.

    >>> import torch
    >>> TanhClip(2.0)(torch.tensor([[0.0, 100.0]])).tolist()
    [[0.0, 2.0]]
    """

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        bound: Any = self.bound(x, present, fresh and self.training)
        return bound * (x / bound).tanh()
