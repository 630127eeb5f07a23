"""CORAL: the same covariance of features in both domains."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_distill.losses.alignment_base import AlignmentLoss


def coral(source: Tensor, target: Tensor) -> Tensor:
    """|C_s - C_t|_F^2 / (4 d^2), where C = (X - mean)^T (X - mean) / (n - 1) over the n rows of a side.

    Means play no part: features that are moved cost nothing. Where there are more features than rows, the
    same number follows from products between rows, without a matrix "d d":
    |C_s|^2 + |C_t|^2 - 2 <C_s, C_t>, with <C_a, C_b> = |A B^T|_F^2 of the centred, scaled rows.

    Args:
        source: X, "n ...", flattened to vectors of d features.
        target: "m ...", of the same width; m need not be n.

    Returns:
        0-d tensor >= 0 but for rounding. The covariance of a single row is taken as 0. 0, with a gradient of
        0, where a side has no row.

    Source: Sun and Saenko, Deep CORAL (1607.01719), equations 1 to 3. Some libraries take the mean over the
    entries, which is 4 times as large, and add a distance between the means, which is not in the paper.

    >>> x = torch.rand(8, 3)
    >>> coral(x, x + 1.0).item() < 1e-9
    True
    """
    if not len(source) or not len(target):
        return source[:0].sum() + target[:0].sum()
    with torch.autocast(source.device.type, enabled=False):
        x, y = _scaled(source.flatten(1)), _scaled(target.flatten(1))
        width = x.shape[1]
        if width <= len(x) + len(y):
            norm = (x.T @ x - y.T @ y).square().sum()
        else:
            norm = _product(x, x) + _product(y, y) - 2 * _product(x, y)
        value = norm / (4 * width**2)
    return value.to(torch.promote_types(source.dtype, target.dtype))


class CORAL(AlignmentLoss):
    """`coral` between the source rows and the target rows of a layer.

    It grows with the fourth power of the features' size. For features of a variance near 1 it is small, as it
    is divided by 4 d^2: the paper chooses the weight so that task loss and term end up about equal.

    Args:
        layer: Name of the student's layer, see `ModelOutput.at`.
        gather: Whether each process compares the rows of all processes.

    Source: as `coral`.
    """

    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """0-d tensor."""
        return coral(source, target)


def _scaled(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(n - 1), so that X^T X is the covariance; float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x - x.mean(dim=0)) / max(len(x) - 1, 1) ** 0.5


def _product(a: Tensor, b: Tensor) -> Tensor:
    """<A^T A, B^T B>."""
    return (a @ b.T).square().sum()
