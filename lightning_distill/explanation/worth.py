"""Was the teacher worth it? A distilled student against the same student without a teacher."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.explanation.answers import BASELINE, STUDENT, Answers

_ALPHA: Final = 0.05
_RESAMPLES: Final = 9999
_MOST: Final = 5000
"""Samples up to which BCa is worth its time, which grows with their square; above, it hardly differs."""


@dataclass(frozen=True)
class Worth:
    """The difference in accuracy between a student and its matched baseline.

    Attributes:
        student: Mean accuracy of the distilled students.
        baseline: Mean accuracy of those without a teacher.
        difference: Mean of student minus baseline.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        pairs: Pairs of trainings; with one the interval is over the samples and knows nothing of other seeds.
        samples: Samples of the split.
        verdict: One sentence: it helped, it did harm, or it cannot be told.
    """

    student: float
    baseline: float
    difference: float
    low: float
    high: float
    pairs: int
    samples: int
    verdict: str


def worth(answers: Sequence[Answers]) -> Worth:
    """Compare students with baselines, pair by pair.

    Args:
        answers: One a pair of trainings, each with student and baseline, on the same split. With one pair
            the interval is a paired bootstrap over samples; with more it is Student's t over the pairs.

    Raises:
        ConfigError: If there is none, one has no baseline, or they are not about the same samples.

    Source: Efron, Better Bootstrap Confidence Intervals (1987), section 2, for the interval BCa.
    """
    if not answers:
        raise _lacking("no answers", "one pair of trainings or more")
    accuracies = torch.stack([_accuracies(pair, answers[0]) for pair in answers])
    student, baseline = (float(mean) for mean in accuracies.mean(dim=0))
    differences = (accuracies[:, 0] - accuracies[:, 1]).numpy()
    low, high = _of_pairs(differences) if len(answers) > 1 else _of_samples(_differences(answers[0]))
    found = Worth(
        student, baseline, float(differences.mean()), low, high, len(answers), len(answers[0].target), ""
    )
    return replace(found, verdict=_verdict(found))


def _accuracies(pair: Answers, first: Answers) -> Tensor:
    """Of student and baseline."""
    if BASELINE not in pair.probabilities:
        raise _lacking("answers without a baseline", "student and baseline in each pair")
    if not torch.equal(pair.sample_id, first.sample_id):
        raise _lacking("pairs that were asked about other samples", "the same samples for all")
    return torch.stack([_right(pair, name).mean() for name in (STUDENT, BASELINE)])


def _right(pair: Answers, name: str) -> Tensor:
    return (pair.probabilities[name].argmax(dim=1) == pair.target).double()


def _differences(pair: Answers) -> NDArray[np.float64]:
    """1 where only the student is right, -1 where only the baseline is, else 0."""
    return np.asarray(_right(pair, STUDENT) - _right(pair, BASELINE), dtype=np.float64)


def _of_samples(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Bootstrap interval of the mean difference."""
    if len(differences) < 2:
        return -1.0, 1.0  # one sample tells nothing
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    rng = np.random.default_rng(0)
    if len(differences) > _MOST:
        # A difference is one of three values: how often each is drawn is all that matters of a resample.
        values, counts = np.unique(differences, return_counts=True)
        size = len(differences)
        means = rng.multinomial(size, counts / size, _RESAMPLES) @ values / size
        low, high = np.quantile(means, [_ALPHA / 2, 1 - _ALPHA / 2])
        return float(low), float(high)
    settings = {"n_resamples": _RESAMPLES, "confidence_level": 1 - _ALPHA, "batch": 500}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # told by NaN, seen to below
        found = stats.bootstrap(
            (differences,), np.mean, method="BCa", rng=rng, **settings
        ).confidence_interval
        if not np.isfinite([found.low, found.high]).all():
            found = stats.bootstrap(
                (differences,), np.mean, method="percentile", rng=rng, **settings
            ).confidence_interval
    return float(found.low), float(found.high)


def _of_pairs(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Student's t over trainings."""
    mean, count = float(differences.mean()), len(differences)
    reach = float(stats.t.ppf(1 - _ALPHA / 2, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    return mean - reach, mean + reach


def _verdict(found: Worth) -> str:
    points = f"{100 * found.difference:+.1f} points of accuracy"
    between = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
    several = found.pairs > 1
    over = f"{found.pairs} pairs of trainings" if several else f"{found.samples} samples"
    told = f"{points} against the same student without a teacher ({between}, over {over})"
    if found.low <= 0 <= found.high:
        said = f"Whether the teacher helped cannot be told: {told}"
    else:
        said = f"The teacher {'helped' if found.low > 0 else 'did harm'}: {told}"
    return said + ("." if several else "; another seed could give another answer.")


def _lacking(found: str, expected: str) -> ConfigError:
    return ConfigError(
        where="worth", found=found, expected=expected, fix="train it: lightning-distill baseline RUN"
    )
