"""What distillation has won and lost, class by class."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_distill.explanation.answers import Answers


@dataclass(frozen=True)
class ClassAccuracy:
    """How well every model knows one class.

    Attributes:
        name: Of the class.
        index: Of the class.
        samples: How many there are of it.
        accuracy: student, teacher, baseline -> share of them that is right (recall).
        gain: Student's minus baseline's; None without a baseline.
        error: Standard error of the gain over the samples, paired; None without a baseline or of one sample.
        misled: Samples that the teacher gets wrong and the student with it, naming the same class.
    """

    name: str
    index: int
    samples: int
    accuracy: dict[str, float]
    gain: float | None
    error: float | None
    misled: int


def by_class(answers: Answers) -> tuple[ClassAccuracy, ...]:
    """One entry a class that has samples, in the order of the classes.

    Args:
        answers: Of student and, where there are any, teacher and baseline.
    """
    raise NotImplementedError
