"""The paper's clip rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_distill.clipping.base import ClipRule
from lightning_distill.errors import ConfigError


class ValueClip(ClipRule):
    """g_clip = clip(g, -eps, eps), entry by entry; then theta <- theta - eta * g_clip.

    NaN passes through; an infinite entry becomes +-eps, which is why `DistillationModule` checks the loss
    before. With SGD the largest step of any weight is eta * eps. With Adam, eps below the typical |g|
    cancels out of the update.

    Args:
        epsilon: The bound eps, in units of the gradient; positive.

    Raises:
        ConfigError: If epsilon is not a positive number.

    Source: the method's gradient clip, g_clip = clip(g, -eps, eps).

    >>> w = nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, -0.5])
    >>> report = ValueClip(1.0).clip([w], measure=True)
    >>> w.grad.tolist(), report["clipped_share"].item()
    ([1.0, -0.5], 0.5)
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ConfigError(
                where="ValueClip.epsilon", found=epsilon, expected="a positive number", fix="try 0.01"
            )
        self.epsilon = epsilon

    @torch.no_grad()
    def clip(self, parameters: Sequence[nn.Parameter], *, measure: bool = False) -> dict[str, Tensor]:
        """Clamp in place: one pass a tensor, half of what torch's foreach version reads and writes."""
        grads = [p.grad for p in parameters if p.grad is not None]
        report = self._measure(grads) if measure and grads else {}
        for grad in grads:
            grad.clamp_(-self.epsilon, self.epsilon)
        return report

    def _measure(self, grads: Sequence[Tensor]) -> dict[str, Tensor]:
        clipped = torch.stack([(g.abs() > self.epsilon).sum() for g in grads]).sum()
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        return {"clipped_share": clipped / sum(g.numel() for g in grads), "gradient_norm": norm}

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"epsilon={self.epsilon}"
