"""Was the teacher worth it? A distilled student against the same student without a teacher."""

from __future__ import annotations

import math
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
        samples: Labelled samples of the split that both can read.
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

    - One pair: the interval is over samples. With b of n samples that the student alone gets right, and c
      that the baseline alone does, p = (b + 1) / (n + 2), q = (c + 1) / (n + 2) and d = p - q, it is
      d +- z sqrt((p + q - d^2) / (n + 2)), cut off at -1 and 1, where z = 1.96. The difference that is told
      is the plain one, (b - c) / n.
    - Several pairs: Student's t over their differences, whose standard deviation counts as one sample at
      least, for differences that happen to be equal are no certainty.

    Args:
        answers: One a pair of trainings, each with student and baseline, on the same samples.

    Raises:
        ConfigError: If there is none, one has no baseline, or they are not about the same samples.

    Source: Bonett and Price, Adjusted Wald Confidence Interval for a Difference of Binomial Proportions
        Based on Paired Data, Journal of Educational and Behavioral Statistics 37 (2012).
    """
    if not answers:
        raise _lacking("no answers", "one pair of trainings or more")
    accuracies = torch.stack([_accuracies(pair, answers[0]) for pair in answers])
    student, baseline = (float(mean) for mean in accuracies.mean(dim=0))
    differences = (accuracies[:, 0] - accuracies[:, 1]).numpy()
    samples = len(answers[0].target)
    low, high = _of_pairs(differences, samples) if len(answers) > 1 else _of_samples(answers[0])
    found = Worth(student, baseline, float(differences.mean()), low, high, len(answers), samples, "")
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


def _of_samples(pair: Answers) -> tuple[float, float]:
    """Bonett and Price's interval."""
    ours, theirs = _right(pair, STUDENT), _right(pair, BASELINE)
    size = len(pair.target) + 2
    p, q = (float(((one - other) > 0).sum() + 1) / size for one, other in ((ours, theirs), (theirs, ours)))
    d = p - q
    half = float(stats.norm.ppf(1 - _ALPHA / 2)) * math.sqrt((p + q - d * d) / size)
    return max(-1.0, d - half), min(1.0, d + half)


def _of_pairs(differences: NDArray[np.float64], samples: int) -> tuple[float, float]:
    """Student's t over trainings."""
    mean, count = float(differences.mean()), len(differences)
    spread = max(float(differences.std(ddof=1)), 1 / samples)
    reach = float(stats.t.ppf(1 - _ALPHA / 2, count - 1)) * spread / math.sqrt(count)
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
