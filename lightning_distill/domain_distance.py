"""How far apart two domains are: by what a linear classifier tells of them, and by their kernel means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.maximum_mean_discrepancy import maximum_mean_discrepancy
from lightning_distill.randomness import generator

FOLDS: Final = 5
PERMUTATIONS: Final = 99
_PENALTIES: Final = tuple(10.0**power for power in range(-3, 5))
"""Ridge penalties that are tried, in units of the mean squared norm of a row."""


@dataclass(frozen=True)
class ProxyADistance:
    """How well a linear classifier tells two domains apart.

    Attributes:
        distance: max(0, 2 (1 - 2 error)): 0 where it guesses, 2 where it makes no mistake.
        standard_error: Of the distance.
        error: Share of the held-out rows it puts into the wrong domain; a row on the border counts half.
        rows: Of each domain.
    """

    distance: float
    standard_error: float
    error: float
    rows: int


@dataclass(frozen=True)
class MMDTest:
    """Whether two samples differ in distribution.

    Attributes:
        value: Unbiased estimate of the squared MMD; around 0, and so negative at times, where they do not.
        p_value: Share of random divisions of all rows, this one included, whose value is at least as large.
        rows: Of each domain.
    """

    value: float
    p_value: float
    rows: int


def proxy_a_distance(source: Tensor, target: Tensor, seed: int = 0) -> ProxyADistance:
    r"""The proxy A-distance, 2 (1 - 2 err), from rows the classifier has not seen.

    Both domains are cut to equally many rows, n each, and dealt out into 5 folds. For each fold a linear
    classifier learns from the others which domain a row is of, y = -1 or 1:

        f(x) = x . w,  w = argmin ||X w - y||^2 + c ||w||^2

    X is standardised by the mean and the standard deviation of each feature over these rows. The penalty c,
    which wide features need, is the one of a fixed grid with the least squared leave-one-out error over the
    same rows. err is the share of all 2n rows that are put on the wrong side of 0 by the classifier that has
    not seen them. Everything is computed in float64.

    The standard error is 4 sqrt(q (1 - q) / 2n) with q = (wrong + 1) / (2n + 2), which is not 0 where no row
    is wrong. It takes the answers as independent. They are not quite, since folds share rows to learn from:
    between equal Gaussians the distance, before it is cut at 0, varied by up to 1.3 times as much.
    Near-copies, or several rows of one speaker, make it too small as well.

    A linear classifier bounds the A-distance of linear classifiers from below; domains it cannot tell apart
    may still differ (see `mmd_test`). Where there are fewer rows than features the distance is too small.

    Args:
        source: Features "n dim", any unit.
        target: Features "m dim".
        seed: Of the choice of rows and of the folds. The global random state is neither read nor moved.

    Returns:
        The distance, in [0, 2]: it is cut at 0, since a classifier that is wrong more often than right
        is so by chance.

    Raises:
        ConfigError: If the two differ in width, hold a number that is not finite, or fewer than 5 rows each.

    Source: Ben-David et al., Analysis of Representations for Domain Adaptation (NeurIPS 2007), section 5,
    where half of the rows are held out once and the classifier is a linear one with Huber loss.

    >>> x = torch.linspace(0, 1, 40)[:, None]
    >>> proxy_a_distance(x, x + 5).distance
    2.0
    """
    source, target = _checked(source, target, FOLDS)
    rows = min(len(source), len(target))
    # Each side is shuffled by itself: rows that were paired before are not in one fold.
    x = torch.cat([_drawn(source, rows, seed, "source"), _drawn(target, rows, seed, "target")])
    y = torch.ones(2 * rows, dtype=torch.float64, device=x.device)
    y[:rows] = -1.0
    fold = torch.arange(rows, device=x.device).repeat(2) % FOLDS
    wrong = 0.0
    for held_out in range(FOLDS):
        test = fold == held_out
        side = y[test] * _predicted(x[~test], y[~test], x[test])
        wrong += float((side < 0).sum()) + 0.5 * float((side == 0).sum())
    error, guarded = wrong / (2 * rows), (wrong + 1) / (2 * rows + 2)
    spread = 4 * math.sqrt(guarded * (1 - guarded) / (2 * rows))
    return ProxyADistance(max(0.0, 2 * (1 - 2 * error)), spread, error, rows)


def mmd_test(source: Tensor, target: Tensor, seed: int = 0) -> MMDTest:
    r"""Whether two samples come from one distribution: the unbiased squared MMD, tested by permutation.

        p = (1 + #{i: MMD_i >= MMD}) / (1 + 99)

    MMD is `maximum_mean_discrepancy(source, target, unbiased=True)` in float64, with its usual Gaussian
    kernels, and MMD_i the same after all rows have been divided anew, by chance, into two samples of these
    sizes. Where both come from one distribution, p <= a happens with probability a at most, whatever the
    distribution; 0.01 is the least it can be. It takes rows as independent: near-copies, or several rows
    of one speaker, make it too small.

    Args:
        source: Features "n dim", any unit.
        target: Features "m dim".
        seed: Of the permutations. The global random state is neither read nor moved.

    Raises:
        ConfigError: If the two differ in width, hold a number that is not finite, or fewer than 2 rows each.

    Source: Gretton et al., A Kernel Two-Sample Test (JMLR 2012), section 2.2 for the estimate; the test is
    that of Phipson and Smyth, Permutation P-values Should Never Be Zero (2010).

    >>> x = torch.linspace(0, 1, 40)[:, None]
    >>> mmd_test(x, x + 5).p_value
    0.01
    """
    source, target = _checked(source, target, 2)
    rows, cut = torch.cat([source, target]), len(source)

    def value(order: Tensor) -> float:
        return float(maximum_mean_discrepancy(rows[order[:cut]], rows[order[cut:]], unbiased=True))

    rng = generator(seed, "domain distance", "permutations")
    found = value(torch.arange(len(rows), device=rows.device))
    by_chance = [
        value(torch.from_numpy(rng.permutation(len(rows))).to(rows.device)) for _ in range(PERMUTATIONS)
    ]
    # Equal values differ in their last digits when the rows are summed in another order.
    reached = sum(other >= found - 1e-12 * (1 + abs(found)) for other in by_chance)
    return MMDTest(found, (1 + reached) / (1 + PERMUTATIONS), min(len(source), len(target)))


def distinct_rows(x: Tensor) -> Tensor:
    """The rows that are no copy of a row before them.

    Copies, such as a word that many samples share, say nothing new, and both measures would take them as
    independent. A copy lies within 1e-4 of the mean distance of two rows, since a model answers the same
    sample with other last digits in another batch.

    Args:
        x: Finite features "n dim".

    >>> distinct_rows(torch.tensor([[1.0], [2.0], [1.0]])).tolist()
    [[1.0], [2.0]]
    """
    if len(x) < 2:
        return x
    centred = x.double() - x.double().mean(dim=0)
    distances = torch.cdist(centred, centred)
    copies = (distances <= 1e-4 * distances.mean()).tril(diagonal=-1).any(dim=1)
    return x[~copies]


def _predicted(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """f(new) of a ridge regression of y on standardised x, in its dual form: as fast for wide features."""
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-12 * (1 + mean.abs()), std, torch.inf)  # what does not vary tells nothing
    x, new = (x - mean) / std, (new - mean) / std
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, rotated = values.clamp(min=0), vectors.T @ y
    unit = float(values.mean()) or 1.0
    best, chosen = math.inf, y
    for penalty in _PENALTIES:
        inverse = 1 / (values + penalty * unit)
        weights = vectors @ (inverse * rotated)
        # What the row itself is answered with when it is left out differs from y by this.
        left_out = weights / (vectors.square() @ inverse)
        if (found := float(left_out.square().mean())) < best:
            best, chosen = found, weights
    answer: Tensor = new @ (x.T @ chosen)
    return answer


def _drawn(x: Tensor, rows: int, seed: int, *purpose: str) -> Tensor:
    order = generator(seed, "domain distance", *purpose).permutation(len(x))[:rows]
    return x[torch.from_numpy(order).to(x.device)]


def _checked(source: Tensor, target: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64, without gradient."""
    source, target = source.detach().double(), target.detach().double()
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ConfigError(
            where="distance of two domains",
            found=f"features of shape {tuple(source.shape)} and {tuple(target.shape)}",
            expected="two tables of features, a row a sample, equally wide",
            fix="take the same layer for both",
        )
    if min(len(source), len(target)) < least:
        raise ConfigError(
            where="distance of two domains",
            found=f"{len(source)} and {len(target)} rows",
            expected=f"at least {least} of each",
            fix="use more samples",
        )
    if not (source.isfinite().all() and target.isfinite().all()):
        raise ConfigError(
            where="distance of two domains",
            found="features that are not finite",
            expected="finite numbers",
            fix="look at the model the features are of, and at its inputs",
        )
    return source, target
