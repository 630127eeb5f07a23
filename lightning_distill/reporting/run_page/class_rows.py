"""Which classes to show, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from lightning_distill.explanation.by_class import ClassAccuracy

FIRST: Final = 30
"""Classes that are shown at once."""
ALL: Final = 2000
"""Classes of a page."""


class ClassRows(NamedTuple):
    """Classes in their order: what was lost first.

    Attributes:
        first: Those that changed most.
        rest: The others.
        hidden: How many more there are than a page holds.
    """

    first: tuple[ClassAccuracy, ...]
    rest: tuple[ClassAccuracy, ...]
    hidden: int


def class_rows(classes: Sequence[ClassAccuracy]) -> ClassRows:
    """Sort classes by what distillation changed; without a baseline, by student minus teacher.

    Args:
        classes: As `by_class` returns them.
    """
    by_change = sorted(classes, key=lambda c: -abs(change(c)))
    first, rest = by_change[:FIRST], by_change[FIRST:ALL]
    hidden = max(0, len(classes) - ALL)
    return ClassRows(tuple(sorted(first, key=change)), tuple(sorted(rest, key=change)), hidden)


def change(entry: ClassAccuracy) -> float:
    """What a class has won: against the baseline, else against the teacher, else its accuracy.

    Args:
        entry: Of one class.
    """
    if entry.gain is not None:
        return entry.gain
    return entry.accuracy.get("student", 0.0) - entry.accuracy.get("teacher", 0.0)
