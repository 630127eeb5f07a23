"""A feature clip that the gradient does not see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_distill.feature_clipping.base import ElementwiseClip


class StraightThroughClip(ElementwiseClip):
    """Forward x_clip = clip(x, -eps, eps); backward dx_clip/dx = 1 everywhere.

    No entry stops learning, but none is held either: where the loss wants more than eps, x drifts outwards
    without bound, and has the whole way back to go. `TowardsClip` does not.

    Args:
        epsilon: The bound eps, in units of the feature or in `unit`; positive.
        unit: What an epsilon of 1 means, measured on the feature itself; None is the feature's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons (1308.3432),
    section 4, the straight-through estimator, here of a clamp.

    >>> x = torch.tensor([[-3.0, 0.5]], requires_grad=True)
    >>> StraightThroughClip(1.0)(x).sum().backward()
    >>> x.grad.tolist()
    [[1.0, 1.0]]
    """

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        clipped: Tensor = _StraightThrough.apply(x, self.bound(x, present, fresh and self.training))
        return clipped


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Any) -> Tensor:
        return x.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None
