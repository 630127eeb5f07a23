"""A clip of the gradient on its way from the fusion into an encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lightning_distill.feature_clipping.base import ElementwiseClip, share_among
from lightning_distill.units import Unit


class BoundaryClip(ElementwiseClip):
    """Forward x; backward g <- clip(g, -eps * s, eps * s), entry by entry, with s = gradient_scale / batch.

    It bounds what all that follows, fusion and terms alike, may do to one encoder:
    |dL/dtheta| <= |J| * eps * s * sqrt(batch * dim), where J is the Jacobian of the encoder. The feature
    itself is left as it is, so nothing is saturated.

    A loss is a mean over the batch, multiplied by a loss scale and divided by the number of accumulated
    batches. s takes all of that out, so that eps bounds the gradient of one sample's own loss, whatever batch
    size, precision and accumulation are. Entries that are not finite pass as they are, so that a `GradScaler`
    sees the overflow. Each process clips before gradients are averaged, and each backward pass by itself
    where several go through one forward pass.

    Args:
        epsilon: The bound eps, in units of one sample's gradient or in `unit`; positive.
        unit: What an epsilon of 1 means, measured in each backward pass on the gradient itself, over the rows
            that are present; its history follows where the forward pass was one of training. It needs no
            `gradient_scale`, but for a history that outlives a change of the loss scale. None is the
            gradient's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: the method's gradient clip g = clip(g, -eps, eps), moved to the boundary between encoder and
    fusion; by the chain rule it is then one per modality.

    >>> x = torch.zeros(2, 2, requires_grad=True)
    >>> (BoundaryClip(1.0)(x) * torch.tensor([3.0, 0.4])).mean(dim=0).sum().backward()
    >>> x.grad.tolist()
    [[0.5, 0.20000000298023224], [0.5, 0.20000000298023224]]
    """

    bounds_feature = False

    def __init__(self, epsilon: float, unit: Unit | None = None) -> None:
        super().__init__(epsilon, unit)
        self.gradient_scale: float | Tensor = 1.0
        """Loss scale / accumulated batches: a number or a 0-d tensor, set before the forward pass."""
        self.clipped_share: Tensor | None = None
        """Where a 0-d tensor is put before a forward pass, each backward pass through it writes there which
        share of the gradient's entries was clipped, of those other than 0 in rows that are present. None
        measures nothing and costs nothing."""

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Return x, "batch dim", as it is."""
        scale = self.gradient_scale / (x.shape[0] or 1)
        if self.unit is None:
            clipped: Tensor = _ClipGradient.apply(x, self.epsilon * scale, present, self.clipped_share)
        else:
            clipped = _ClipGradientByUnit.apply(x, self, scale, present, fresh and self.training)
        return clipped

    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """No entry: the forward pass changes nothing."""
        return torch.zeros_like(x, dtype=torch.bool)


class _ClipGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Any, present: Tensor | None, share: Tensor | None) -> Tensor:
        ctx.given = bound, present, share
        return x.detach()  # the same memory, and cheaper than a view

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        bound, present, share = ctx.given
        return _clipped(grads[0], bound, present, share), None, None, None


class _ClipGradientByUnit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, clip: BoundaryClip, scale: float | Tensor, present: Tensor | None, fresh: bool
    ) -> Tensor:
        ctx.given = clip, scale, present, fresh, clip.clipped_share
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (clip, scale, present, fresh, share) = grads, ctx.given
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        bound = scale * clip.bound(wide / scale, present, fresh)
        return _clipped(grad, bound, present, share), None, None, None, None


def _clipped(grad: Tensor, bound: Any, present: Tensor | None, share: Tensor | None) -> Tensor:
    clipped = grad.clamp(-bound, bound)
    if share is not None:
        counted = grad.bool() if present is None else grad.bool() & present[..., None]
        share.copy_(share_among((grad.abs() > clipped.abs()) & ~grad.isinf(), counted))
    if grad.is_cpu and not is_compiling() and math.isfinite(grad.sum().item()):
        return clipped  # here, where waiting costs nothing, one look saves two passes
    return torch.where(grad.isinf(), grad, clipped)
