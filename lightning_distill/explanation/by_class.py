"""What distillation has won and lost, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_distill.explanation.answers import BASELINE, STUDENT, TEACHER, Answers


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
    said = {name: p.argmax(dim=1) for name, p in answers.probabilities.items()}
    right = {name: (best == answers.target).double() for name, best in said.items()}
    misled = torch.zeros_like(answers.target, dtype=torch.bool)
    if TEACHER in said:
        misled = (said[TEACHER] != answers.target) & (said[STUDENT] == said[TEACHER])
    found = []
    for index, name in enumerate(answers.classes):
        rows = answers.target == index
        if not rows.any():
            continue
        gain, error = _gain({model: values[rows] for model, values in right.items()})
        accuracy = {model: float(values[rows].mean()) for model, values in right.items()}
        found.append(
            ClassAccuracy(name, index, int(rows.sum()), accuracy, gain, error, int(misled[rows].sum()))
        )
    return tuple(found)


def _gain(right: dict[str, Tensor]) -> tuple[float | None, float | None]:
    """Mean difference between student and baseline, and its standard error; see `ClassAccuracy`."""
    if BASELINE not in right:
        return None, None
    difference = right[STUDENT] - right[BASELINE]
    count = len(difference)
    return float(difference.mean()), float(difference.std()) / count**0.5 if count > 1 else None
