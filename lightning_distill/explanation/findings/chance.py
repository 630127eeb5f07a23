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
_BLOCKS: Final = 10


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
    """Mean of a curve with its interval, by batch means: neighbours are alike, ten blocks less so.

    Args:
        curve: A value every so many steps.
        among: How many such means are looked at.

    Returns:
        None where there are fewer than 20 values.

    Source: batch means, as for the output of simulations: Law, Simulation Modeling and Analysis, section 9.5.
    """
    if len(curve.values) < 2 * _BLOCKS:
        return None
    blocks = np.array_split(np.asarray(curve.values, dtype=np.float64), _BLOCKS)
    found = mean_of([float(block.mean()) for block in blocks], among)
    return Mean(float(np.mean(curve.values)), found.low, found.high)


def trend(values: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau of values with their order, and its two-sided p; (0, 1) of equal ones, or below five."""
    if len(values) < 5 or len(set(values)) == 1:
        return 0.0, 1.0
    found = stats.kendalltau(range(len(values)), values)
    return float(found.statistic), float(found.pvalue)
