"""p-norms of tensors of any size and range: fast, then with care where powers leave their type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_PIECE: Final = 1 << 22
"""Entries whose squares are added up in float32; longer sums lose digits (0.2 % at 30 million)."""
_SMALL: Final = 1 << 14
"""Entries of tensors for which a call costs more than the sum."""


def tensor_norms(tensors: Sequence[Tensor], p: float = 2.0) -> list[Tensor]:
    """The p-norm of each tensor; finite where its entries are, NaN where one is NaN.

    Args:
        tensors: Of any floating-point types and shapes, on any devices.
        p: 1 or more; infinity is the largest absolute value.

    Returns:
        0-d tensors where the tensors are, float64 (float32 on devices that have no other); found without
        synchronisation.

    >>> [f"{norm:.1e}" for norm in tensor_norms([torch.tensor([3e30, 4e30]), torch.zeros(2)])]
    ['5.0e+30', '0.0e+00']
    """
    filled = [x for x in tensors if x.numel()]
    if filled and p in (1.0, 2.0, math.inf) and all(x.is_cuda for x in filled):
        found = iter(torch._foreach_norm(filled, p, dtype=torch.float64))
        return [next(found) if x.numel() else x.new_zeros((), dtype=torch.float64) for x in tensors]
    if all(x.device.type == "cpu" for x in tensors):
        return list(torch.tensor(_norms_on_cpu(tensors, p), dtype=torch.float64).unbind())
    return [scaled_norm(x, p) for x in tensors]


def scaled_norm(x: Tensor, p: float) -> Tensor:
    """|x|_p as max |x| * |x / max |x||_p, so that no power overflows; three passes and a copy.

    Args:
        x: Any tensor.
        p: 1 or more, or infinity.

    Returns:
        0-d, float64 (float32 on devices that have no other).
    """
    if not x.numel():
        return x.new_zeros((), dtype=widest(x.device))
    low, high = torch.aminmax(x.detach())
    top = torch.maximum(-low, high).abs().to(widest(x.device))
    if p == math.inf or (top.device.type == "cpu" and not 0 < top.item() < math.inf):
        return top
    unit = unit_of(top)
    return unit * torch.linalg.vector_norm(x.to(torch.promote_types(x.dtype, torch.float32)) / unit, p)


def unit_of(top: Tensor) -> Tensor:
    """What to divide by so that the largest becomes 1; 1 where that cannot be.

    Args:
        top: Largest absolute values.
    """
    # torch.where would copy the 1 to the device, and wait.
    return top.masked_fill(~((top > 0) & top.isfinite()), 1.0)


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def _norms_on_cpu(tensors: Sequence[Tensor], p: float) -> list[float]:
    small = [i for i, x in enumerate(tensors) if x.numel() <= _SMALL and x.dtype == torch.float32]
    norms: dict[int, float] = {}
    if small and p < math.inf:
        wide = None if p == 2 else torch.float64  # sums of other powers lose digits in float32
        found = torch.stack(torch._foreach_norm([tensors[i] for i in small], p, dtype=wide))
        norms = dict(zip(small, found.tolist(), strict=True))
    lowest = 10 ** (-24 / p)
    for i, x in enumerate(tensors):
        norm = norms[i] if i in norms else _fast_norm(x, p)
        norms[i] = norm if lowest < norm < math.inf else scaled_norm(x, p).item()
    return [norms[i] for i in range(len(tensors))]


def _fast_norm(x: Tensor, p: float) -> float:
    """NaN where it is not faster than `scaled_norm`."""
    if p == math.inf or not x.numel():
        return math.nan
    if p == 2 and x.dtype in (torch.float32, torch.float64) and x.is_contiguous():
        return math.sqrt(sum(torch.dot(y, y).item() for y in x.view(-1).split(_PIECE)))
    wide = torch.promote_types(x.dtype, torch.float32) if p == 2 else torch.float64
    return torch.linalg.vector_norm(x, p, dtype=wide).item()
