"""Maximum mean discrepancy: how far two samples lie apart, over several widths at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.alignment_base import AlignmentLoss

SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


def maximum_mean_discrepancy(
    source: Tensor, target: Tensor, scales: Sequence[float] = SCALES, unbiased: bool = False
) -> Tensor:
    """MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), with x of the source and y of the target.

    k(a, b) = (1 / K) * sum_k exp(-|a - b|^2 / (2 sigma_k^2)), a mean of K Gaussian kernels. sigma_k^2 =
    scale_k * the mean of |a - b|^2 over all pairs of two different rows of the joined sample; no gradient
    flows into it. So the value lies below 2 and does not change when all features are moved, turned or
    stretched.

    The biased estimate takes each mean over all pairs, a row with itself among them. The unbiased one leaves
    those pairs out of the first two means: its expectation is 0 where both samples are of one distribution,
    and so it is often negative; for twice the same rows it is negative, since the third mean still
    holds each row's pair with itself.

    Memory: one entry for each pair of rows, whatever their width.

    Args:
        source: x, "n ...", flattened to vectors.
        target: y, "m ...", of the same width; m need not be n.
        scales: One a kernel, above 0; for different widths, so that near and far rows both have a gradient.
        unbiased: Which estimate.

    Returns:
        0-d tensor; the biased estimate is >= 0 but for rounding, and 0 for twice the same rows. 0, with a
        gradient of 0, where a side has no row, or, for the unbiased estimate, fewer than two.

    Source: Gretton et al., A Kernel Two-Sample Test (JMLR 2012), equation 3, and the square of equation 5.
    Several kernels with weights that sum to 1: Long et al., Learning Transferable Features with Deep
    Adaptation Networks (1502.02791), equation 2; the weights are equal here and learned there, and widths
    follow each batch instead of the median over the data. Other code adds the kernels up (K times as large),
    or counts the distance of each row to itself in the mean, which makes kernels narrower in small batches.

    >>> x = torch.rand(6, 3)
    >>> maximum_mean_discrepancy(x, x).item()
    0.0
    >>> maximum_mean_discrepancy(x, x[:4] + 2.0).item() > 0.5
    True
    """
    if min(len(source), len(target)) < (2 if unbiased else 1):
        return source[:0].sum() + target[:0].sum()
    with torch.autocast(source.device.type, enabled=False):
        distances = _squared_distances(*_centred(source.flatten(1), target.flatten(1)))
        rows, others = distances.across.shape
        total = sum(d.detach().sum() for d in distances) + distances.across.detach().sum()
        width = total / ((rows + others) * (rows + others - 1))
        # Where all rows are alike there is no width, and any will do.
        width = width.where(width >= torch.finfo(width.dtype).tiny, 1.0)
        mine, theirs, across = (_kernel(d / width, scales) for d in distances)
        value = _mean(mine, unbiased) + _mean(theirs, unbiased) - 2 * across.mean()
    return value.to(torch.promote_types(source.dtype, target.dtype))


class MaximumMeanDiscrepancy(AlignmentLoss):
    """`maximum_mean_discrepancy` between the source rows and the target rows of a layer.

    Its size does not depend on that of the features: a weight of about 1 is a start. Its gradient therefore
    grows as their spread shrinks.

    Args:
        layer: Name of the student's layer, see `ModelOutput.at`.
        scales: As for `maximum_mean_discrepancy`.
        unbiased: As there. The biased estimate is the usual term; the unbiased one is for batches of a few
            rows, whose bias would be most of the value.
        gather: Whether each process compares the rows of all processes.

    Raises:
        ConfigError: If there is no scale, or one is not a positive number.

    Source: as `maximum_mean_discrepancy`.
    """

    def __init__(
        self,
        layer: str = "embedding",
        scales: tuple[float, ...] = SCALES,
        unbiased: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__(layer, gather)
        if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
            raise ConfigError(
                where="MaximumMeanDiscrepancy.scales",
                found=list(scales),
                expected="one or more positive numbers",
                fix="leave it out, or try [0.125, 0.25, 0.5, 1.0, 2.0]",
            )
        self.scales, self.unbiased = tuple(scales), unbiased

    def align(self, source: Tensor, target: Tensor) -> Tensor:
        """0-d tensor."""
        return maximum_mean_discrepancy(source, target, self.scales, self.unbiased)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"scales={self.scales}, unbiased={self.unbiased}"


class _Distances(NamedTuple):
    """Squared distances: "n n" in the source, "m m" in the target, "n m" across."""

    mine: Tensor
    theirs: Tensor
    across: Tensor


def _centred(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both moved by one vector, since products of features far from 0 would cancel; float32 at least."""
    dtype = torch.promote_types(torch.promote_types(source.dtype, target.dtype), torch.float32)
    x, y = source.to(dtype), target.to(dtype)
    mean = torch.cat([x.detach(), y.detach()]).mean(dim=0)
    return x - mean, y - mean


def _squared_distances(x: Tensor, y: Tensor) -> _Distances:
    """|a|^2 + |b|^2 - 2 a . b, whose gradient is finite where a = b, unlike that of a distance."""
    mine, theirs, across = x @ x.T, y @ y.T, x @ y.T
    a, b = mine.diagonal(), theirs.diagonal()  # the squared norms
    return _Distances(
        (a[:, None] + a - 2 * mine).clamp(min=0),
        (b[:, None] + b - 2 * theirs).clamp(min=0),
        (a[:, None] + b - 2 * across).clamp(min=0),
    )


def _kernel(d: Tensor, scales: Sequence[float]) -> Tensor:
    """Mean over the scales, of squared distances relative to their mean."""
    return torch.stack([torch.exp(d / (-2 * scale)) for scale in scales]).mean(dim=0)


def _mean(kernel: Tensor, unbiased: bool) -> Tensor:
    if not unbiased:
        return kernel.mean()
    rows = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (rows * (rows - 1))
