"""Was the teacher worth it? A distilled student against the same student without a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_distill.explanation.answers import Answers


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
        ConfigError: If there is none, or one has no baseline.
    """
    raise NotImplementedError
