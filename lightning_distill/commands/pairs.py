"""Where the matched baselines of a run lie."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class PairFolders(NamedTuple):
    """Folders of two runs that differ in the teacher only.

    Attributes:
        student: With it.
        baseline: Without.
    """

    student: Path
    baseline: Path


def pair_of(run: Path, number: int) -> PairFolders:
    """Folders of a pair, whether they are there or not.

    Args:
        run: The run that the pairs belong to.
        number: Of the pair; that of the run itself is 1.

    >>> pair_of(Path("a"), 2).baseline.as_posix()
    'a/pairs/2/baseline'
    """
    if number == 1:
        return PairFolders(run, run / "baseline")
    return PairFolders(run / "pairs" / str(number) / "student", run / "pairs" / str(number) / "baseline")


def finished_pairs(run: Path) -> list[PairFolders]:
    """Pairs both of whose students are there, the run's own first; none where it has no baseline.

    Args:
        run: The run that the pairs belong to.
    """
    found: list[PairFolders] = []
    numbers = (int(p.name) for p in (run / "pairs").glob("*") if p.name.isdecimal())
    for number in [1, *sorted(n for n in numbers if n > 1)]:
        pair = pair_of(run, number)
        if all((folder / "student").is_dir() for folder in pair):
            found.append(pair)
        elif number == 1:
            break
    return found
