"""What may be chance: tests that findings rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from lightning_distill.explanation.curves import Curve

LEVEL: Final = 0.05
"""Chance that a rule finds something where there is nothing; where it looks at k things, each gets 1 / k."""
_ALIKE: Final = 0.8
"""Correlation of neighbouring values that intervals and trends over time reckon with."""
_FEW, _MANY = 5, 10
"""Blocks that a curve is cut into."""


class Mean(NamedTuple):
    """A mean, and the interval in which it lies but for a chance of `LEVEL`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def sign_test(one: int, other: int) -> float:
    """Two-sided p of so uneven a split, where each case falls to either side with probability 1/2.

    As a test of two models on the same samples it is McNemar's, exact.

    >>> round(sign_test(0, 5), 4), sign_test(0, 0)
    (0.0625, 1.0)
    """
    return float(stats.binomtest(one, one + other).pvalue) if one + other else 1.0


def mean_of(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], among: int = 1) -> Mean:
    """Mean of independent values with its interval, by Student's t; without bounds below two values.

    Args:
        values: One or more.
        among: How many such means are looked at.
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Mean(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(1 - LEVEL / among / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Mean(mean, mean - half, mean + half)


def mean_over_time(curve: Curve, among: int = 1) -> Mean | None:
    """Mean of a curve with its interval, by batch means: neighbours are alike, blocks of them less so.

    A block holds 20 values where there are enough for ten blocks, or for more than five. Short blocks are
    still alike, so the interval is made longer by what blocks of an autoregression with the correlation 0.8
    would need.

    Args:
        curve: A value every so many steps.
        among: How many such means are looked at.

    Returns:
        None where there are fewer than 20 values.

    Source: batch means, as for the output of simulations: Law, Simulation Modeling and Analysis, section 9.5.
    """
    size = len(curve.values)
    if size < 20:
        return None
    count = min(_MANY, max(_FEW, size // 20))
    found = mean_of(_block_means(curve.values, count), among)
    value = float(np.mean(curve.values))
    # Of k means of m values, k Var(their mean) over the expected square of their standard deviation.
    whole, block = _variance_of_mean(size), _variance_of_mean(size / count)
    half = (found.high - found.value) * math.sqrt((count - 1) * whole / (block - whole))
    return Mean(value, value - half, value + half)


def _block_means(values: Sequence[float], count: int) -> list[float]:
    return [float(block.mean()) for block in np.array_split(np.asarray(values, dtype=np.float64), count)]


def _variance_of_mean(size: float) -> float:
    """Of so many neighbours, each of variance 1, in a first-order autoregression.

    >>> round(_variance_of_mean(1), 9), round(_variance_of_mean(2), 9)
    (1.0, 0.9)
    """
    up = size * (1 - _ALIKE**2) - 2 * _ALIKE * (1 - _ALIKE**size)
    return up / (size * (1 - _ALIKE)) ** 2


def trend(values: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau of five block means with their order, and its two-sided p.

    The p is for independent values, and neighbouring evaluations are not. With five blocks only those that
    all rise or all fall have one below 0.05, which neighbours with a correlation of 0.8 make hardly more
    often than that.

    Returns:
        (0, 1) of equal values, or below ten.
    """
    if len(values) < 2 * _FEW or len(set(values)) == 1:
        return 0.0, 1.0
    found = stats.kendalltau(range(_FEW), _block_means(values, _FEW))
    if math.isnan(found.statistic):
        return 0.0, 1.0  # the means are equal
    return float(found.statistic), float(found.pvalue)
