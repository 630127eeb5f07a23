"""What teacher and student agree and disagree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lightning_distill.explanation.answers import Answers

KINDS: Final = ("only the teacher is right", "only the student is right", "both are wrong", "both are right")
"""In the order in which they are of interest."""


@dataclass(frozen=True)
class Example:
    """One sample, and what both say of it.

    Attributes:
        row: Of the data source.
        sample_id: Its stable id.
        target: Its class, an index.
        student: The student's class, an index.
        student_confidence: Its probability.
        teacher: The teacher's class, an index.
        teacher_confidence: Its probability.
    """

    row: int
    sample_id: int
    target: int
    student: int
    student_confidence: float
    teacher: int
    teacher_confidence: float


@dataclass(frozen=True)
class Agreement:
    """How often teacher and student say the same, and where.

    Attributes:
        share: Of the samples on which both name the same class.
        counts: Kind, of `KINDS` -> samples.
        examples: Kind, of `KINDS` -> those of which the wrong one is most sure (both right: least sure).
    """

    share: float
    counts: dict[str, int]
    examples: dict[str, tuple[Example, ...]]


def agreement(answers: Answers, most: int = 8) -> Agreement:
    """Compare the student's answers with the teacher's.

    Args:
        answers: With a teacher.
        most: Examples of each kind.

    Raises:
        ConfigError: If there is no teacher among the answers.
    """
    raise NotImplementedError
