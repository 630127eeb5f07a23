"""The size of tensors by their root mean square."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradients.norms import tensor_norms
from lightning_distill.units.base import Total, Unit


class StandardDeviation(Unit):
    """sqrt(v_t / (1 - d^t)), where v_t = d * v_(t-1) + (1 - d) * mean(x^2) over all entries taken together.

    The deviation is about zero: a range that is symmetric about zero cuts what is far from zero. All entries
    count, those that are exactly zero too. A step whose root mean square is not finite, or is zero, leaves
    history as it is. Before there is any history the tensors' own root mean square is the unit, and where
    even that is zero the smallest normal float32.

    Args:
        decay: d, from 0 (this step alone) to below 1 (about the last 1 / (1 - d) steps).

    Raises:
        ConfigError: If decay is not from 0 to below 1.

    >>> unit = StandardDeviation(decay=0.5)
    >>> unit([torch.tensor([3.0, -3.0])]).item()
    3.0
    >>> unit([torch.tensor([[0.0]])]).item()  # says nothing
    3.0
    """

    root: Tensor
    seen: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(
                where="StandardDeviation.decay", found=decay, expected="from 0 to below 1", fix="try 0.99"
            )
        self.decay = decay
        self.register_buffer("root", torch.zeros(()))  # sqrt(v_t): its square would leave float32 sooner
        self.register_buffer("seen", torch.zeros(()))  # 1 - d^t

    @torch.no_grad()
    def forward(self, tensors: Sequence[Tensor], *, fresh: bool = True, total: Total | None = None) -> Tensor:
        """The root mean square, smoothed."""
        now = _root_mean_square(tensors, total)
        good = now.isfinite() & (now > 0)
        device = now.device
        root, seen = self.root.to(device), self.seen.to(device)
        if fresh:
            kept, new = math.sqrt(self.decay) * root, math.sqrt(1 - self.decay) * now
            root = torch.where(good, torch.hypot(kept, new), root)
            seen = torch.where(good, self.decay * seen + (1 - self.decay), seen)
            self.root.copy_(root)
            self.seen.copy_(seen)
        own = torch.where(good, now, torch.finfo(now.dtype).tiny)
        return torch.where(seen > 0, root / seen.clamp(min=1e-12).sqrt(), own)

    def extra_repr(self) -> str:
        """Show the decay."""
        return f"decay={self.decay}"


def _root_mean_square(tensors: Sequence[Tensor], total: Total | None) -> Tensor:
    device = tensors[0].device
    if total is None:
        dtype = max((torch.promote_types(x.dtype, torch.float32) for x in tensors), key=lambda d: d.itemsize)
        norms = [torch.linalg.vector_norm(x, dtype=dtype).to(device) for x in tensors]
        return (torch.linalg.vector_norm(torch.stack(norms)) / _root(tensors)).float()
    squares = torch.stack([norm.to(device) for norm in tensor_norms(tensors)]).square()
    sizes = torch.tensor([x.numel() for x in tensors], dtype=squares.dtype).to(device, non_blocking=True)
    square, entries = total(torch.stack([squares, sizes], dim=1)).sum(0)
    return (square / entries.clamp(min=1)).sqrt().float()


def _root(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(max(sum(x.numel() for x in tensors), 1))
