"""How much there is, as the documents say it, is how much is on the shelves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_distill.losses.rows_base import RowsLoss
from tests.shelves import concrete

ROOT = Path(__file__).parents[2]
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
WORDS = [*ONES.split(), "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty"]


def number(word: str) -> int:
    """Of digits, or of a word below sixty."""
    if word.isdecimal():
        return int(word)
    tens, _, ones = word.partition("-")
    return (
        10 * (2 + TENS.index(tens)) + (WORDS.index(ones) if ones else 0)
        if tens in TENS
        else WORDS.index(word)
    )


WRAPPERS = [cls for cls in concrete("losses") if issubclass(cls, RowsLoss)]
TERMS, RULES, HEADS = (len(concrete(shelf)) for shelf in ("losses", "clipping", "fusion"))


@pytest.mark.parametrize(
    ("file", "words", "count"),
    [
        ("README.md", r"([\w-]+) terms on logits", TERMS - len(WRAPPERS)),
        ("README.md", r"and ([\w-]+) that choose samples for another term", len(WRAPPERS)),
        ("README.md", r"and ([\w-]+) other rules", RULES - 1),
        ("README.md", r"([\w-]+) heads, any number of modalities", HEADS),
        ("docs/comparison.md", r"\| distillation losses \| (\w+) classes", TERMS - len(WRAPPERS)),
        ("docs/comparison.md", r"and (\w+) that choose samples for another \|", len(WRAPPERS)),
    ],
)
def test_numbers_are_those_of_the_shelves(file: str, words: str, count: int) -> None:
    (found,) = re.findall(words, " ".join((ROOT / file).read_text(encoding="utf-8").split()))
    assert number(found) == count


def test_numbers_are_read() -> None:
    words = ("two", "fifteen", "twenty-two", "thirty", "thirty-one", "31")
    assert [number(word) for word in words] == [2, 15, 22, 30, 31, 31]
