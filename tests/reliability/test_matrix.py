"""Every row of the fault matrix is held by a test that says so."""

from __future__ import annotations

from tests.reliability.matrix import ROWS, held


def test_every_row_is_held_and_every_mark_is_a_row() -> None:
    found = {row for row, _ in held()}
    assert sorted(set(ROWS) - found) == []
    assert sorted(found - set(ROWS)) == []
