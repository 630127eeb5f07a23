"""A feature clip that lets saturated entries come back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_distill.feature_clipping.base import ElementwiseClip


class TowardsClip(ElementwiseClip):
    """Forward x_clip = clip(x, -eps, eps); backward g <- g * 1[|x| <= eps or x * g > 0].

    Beyond the bound, only a gradient whose descent step leads back inside passes. So a saturated entry is
    never stuck, as under `HardClip`, and never drifts outwards, as under `StraightThroughClip`. The
    gradient is not that of any loss: `gradcheck` must fail beyond the bound. NaN passes through, without
    gradient.

    Args:
        epsilon: The bound eps, in units of the feature or in `unit`; positive.
        unit: What an epsilon of 1 means, measured on the feature itself; None is the feature's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: TensorFlow Compression, `lower_bound` and `upper_bound` with gradient "identity_if_towards",
    here on both sides at once.

    >>> x = torch.tensor([[3.0, 3.0, 0.5]], requires_grad=True)
    >>> (TowardsClip(1.0)(x) * torch.tensor([1.0, -1.0, -1.0])).sum().backward()
    >>> x.grad.tolist()
    [[1.0, 0.0, -1.0]]
    """

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        clipped: Tensor = _Towards.apply(x, self.bound(x, present, fresh and self.training))
        return clipped


class _Towards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Any) -> Tensor:
        clipped = x.clamp(-bound, bound)
        ctx.save_for_backward(x - clipped)
        return clipped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (excess,) = grads, ctx.saved_tensors
        return torch.where((excess == 0) | (excess.sign() * grad > 0), grad, 0), None
