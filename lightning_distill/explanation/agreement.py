"""What teacher and student agree and disagree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.explanation.answers import STUDENT, TEACHER, Answers

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


class _Top(NamedTuple):
    """Confidence and class of every answer, each "samples"."""

    values: Tensor
    indices: Tensor


def agreement(answers: Answers, most: int = 8) -> Agreement:
    """Compare the student's answers with the teacher's.

    Args:
        answers: With a teacher.
        most: Examples of each kind.

    Raises:
        ConfigError: If there is no teacher among the answers.
    """
    if TEACHER not in answers.probabilities:
        raise ConfigError(
            where="agreement",
            found="answers of no teacher",
            expected="a teacher among the models that were asked",
            fix="pass the teacher to `answers`",
        )
    student, teacher = (_Top(*answers.probabilities[name].max(dim=1)) for name in (STUDENT, TEACHER))
    s, t = (top.indices == answers.target for top in (student, teacher))
    of_kind = dict(zip(KINDS, (~s & t, s & ~t, ~s & ~t, s & t), strict=True))
    surer = torch.maximum(student.values, teacher.values)
    less_sure = torch.minimum(student.values, teacher.values)
    interest = dict(zip(KINDS, (student.values, teacher.values, surer, -less_sure), strict=True))
    examples = {
        kind: tuple(
            _example(answers, int(at), student, teacher) for at in _first(of_kind[kind], interest[kind], most)
        )
        for kind in KINDS
    }
    share = float((student.indices == teacher.indices).double().mean())
    return Agreement(share, {kind: int(rows.sum()) for kind, rows in of_kind.items()}, examples)


def _first(rows: Tensor, interest: Tensor, most: int) -> Tensor:
    """Places of the rows of most interest; of equal ones the first."""
    places = rows.nonzero()[:, 0]
    return places[interest[places].sort(descending=True, stable=True).indices[:most]]


def _example(answers: Answers, at: int, student: _Top, teacher: _Top) -> Example:
    return Example(
        row=int(answers.rows[at]),
        sample_id=int(answers.sample_id[at]),
        target=int(answers.target[at]),
        student=int(student.indices[at]),
        student_confidence=float(student.values[at]),
        teacher=int(teacher.indices[at]),
        teacher_confidence=float(teacher.values[at]),
    )
