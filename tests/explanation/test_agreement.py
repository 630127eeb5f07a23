"""Agreement and classes, with counts made by hand."""

from __future__ import annotations

import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.explanation.agreement import KINDS, agreement
from lightning_distill.explanation.by_class import by_class
from tests.explanation.made import made_answers

#              right?  student teacher baseline
TARGET = [
    0,  # both right
    0,  # only the teacher
    1,  # only the student
    1,  # both wrong, the same class
    2,  # both wrong, other classes
    0,  # both right, less sure
    0,  # only the teacher, a surer student
]
SAID = {
    "student": [(0, 0.9), (1, 0.5), (1, 0.8), (0, 0.5), (0, 0.45), (0, 0.7), (2, 0.95)],
    "teacher": [(0, 0.5), (0, 0.9), (2, 0.7), (0, 0.6), (1, 0.9), (0, 0.6), (0, 0.5)],
    "baseline": [(0, 0.9), (0, 0.9), (0, 0.9), (0, 0.9), (0, 0.9), (1, 0.9), (0, 0.9)],
}


def test_agreement_by_hand() -> None:
    found = agreement(made_answers(TARGET, SAID))
    assert found.share == pytest.approx(3 / 7)  # samples 0, 3 and 5
    assert found.counts == dict(zip(KINDS, (2, 1, 2, 2), strict=True))
    ids = {kind: [example.sample_id for example in examples] for kind, examples in found.examples.items()}
    assert ids == dict(zip(KINDS, ([106, 101], [102], [104, 103], [100, 105]), strict=True))
    first = found.examples["only the teacher is right"][0]
    assert (first.row, first.target, first.student, first.teacher) == (16, 0, 2, 0)
    assert (first.student_confidence, first.teacher_confidence) == pytest.approx((0.95, 0.5))


def test_examples_are_few() -> None:
    found = agreement(made_answers(TARGET, SAID), most=1)
    assert [len(found.examples[kind]) for kind in KINDS] == [1, 1, 1, 1]
    assert found.examples[KINDS[0]][0].sample_id == 106


def test_without_a_teacher_there_is_no_agreement() -> None:
    with pytest.raises(ConfigError, match="no teacher"):
        agreement(made_answers(TARGET, {"student": SAID["student"]}))


def test_classes_by_hand() -> None:
    ant, bee, cat = by_class(made_answers(TARGET, SAID))
    assert [(c.name, c.index, c.samples) for c in (ant, bee, cat)] == [
        ("ant", 0, 4),
        ("bee", 1, 2),
        ("cat", 2, 1),
    ]
    assert ant.accuracy == {"student": 0.5, "teacher": 1.0, "baseline": 0.75}
    # Student minus baseline: 0, -1, 1, -1: mean -1/4, variance (1 + 9 + 25 + 9) / 16 / 3 = 11/12.
    assert ant.gain == -0.25
    assert ant.error == pytest.approx((11 / 12 / 4) ** 0.5)
    assert (bee.gain, bee.misled) == (0.5, 1)
    assert (cat.gain, cat.error, cat.misled) == (0.0, None, 0)


def test_classes_without_baseline_teacher_or_samples() -> None:
    (bee,) = by_class(made_answers([1, 1], {"student": [(1, 0.9), (0, 0.9)]}))
    assert (bee.index, bee.accuracy) == (1, {"student": 0.5})
    assert (bee.gain, bee.error, bee.misled) == (None, None, 0)
