"""Every row of the fault matrix, groups manifest to labels, has a test that carries its name."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = {
    f"{group}{number}"
    for group, count in {"M": 20, "I": 10, "T": 7, "A": 6, "X": 6, "L": 6}.items()
    for number in range(1, count + 1)
}


def test_every_row_has_a_test() -> None:
    named: set[str] = set()
    for file in TESTS.rglob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"^def test_((?:[MITAXL]\d+_)+)", text, re.MULTILINE):
            named.update(name.strip("_").split("_"))
        for ids in re.findall(r"\bids=\[([^]]*)\]", text):
            named.update(re.findall(r'"([MITAXL]\d+)"', ids))
    assert ROWS - named == set()
