"""MMD and CORAL written from the papers, in NumPy loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.losses import coral, maximum_mean_discrepancy

Array = NDArray[np.float64]
SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)


def draw(rows: int, width: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Array:
    return shift + scale * np.random.default_rng(seed).normal(size=(rows, width))


def tensors(*sides: Array, dtype: torch.dtype = torch.float64, grad: bool = False) -> list[Tensor]:
    return [torch.tensor(x, dtype=dtype, requires_grad=grad) for x in sides]


def mmd(x: Array, y: Array, unbiased: bool = False) -> float:
    return maximum_mean_discrepancy(*tensors(x, y), SCALES, unbiased).item()


def gradients(f: Callable[..., Tensor], *sides: Tensor) -> tuple[Tensor, list[Tensor]]:
    value = f(*sides)
    value.backward()
    assert all(x.grad is not None for x in sides)
    return value.detach(), [x.grad for x in sides]  # type: ignore[misc]


def width_of(x: Array, y: Array) -> float:
    """Mean squared distance of two different rows."""
    rows = [*x, *y]
    return float(np.mean([((a - b) ** 2).sum() for a, b in combinations(rows, 2)]))


def mmd_reference(x: Array, y: Array, unbiased: bool, width: float) -> float:
    def mean_kernel(rows: Array, others: Array, leave_out: bool) -> float:
        values = []
        for i, a in enumerate(rows):
            for j, b in enumerate(others):
                if not (leave_out and i == j):
                    d = ((a - b) ** 2).sum()
                    values.append(np.mean([np.exp(-d / (2 * scale * width)) for scale in SCALES]))
        return float(np.mean(values))

    return mean_kernel(x, x, unbiased) + mean_kernel(y, y, unbiased) - 2 * mean_kernel(x, y, False)


def coral_reference(x: Array, y: Array) -> float:
    c, d = (np.cov(side, rowvar=False, ddof=1).reshape(side.shape[1], -1) for side in (x, y))
    return float(((c - d) ** 2).sum() / (4 * x.shape[1] ** 2))


FUNCTIONS: dict[str, Any] = {
    "mmd": maximum_mean_discrepancy,
    "unbiased": lambda x, y: maximum_mean_discrepancy(x, y, unbiased=True),
    "coral": coral,
}
