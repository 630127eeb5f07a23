"""What the doctor finds, gathered over steps that do not stop one another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from lightning_distill.errors import DistillError, printable

Level = Literal["error", "warning", "note"]
SHOWN: Final = 20
"""Findings of one kind that are listed; the rest are counted."""


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        level: An error keeps training from starting or ending, a warning spoils results, a note is for your
            information.
        where: File, row and field, or config key.
        found: What is there.
        expected: What should be there.
        fix: What to do.
        code: Exit code of an error, else 0.
    """

    level: Level
    where: str
    found: str
    expected: str = ""
    fix: str = ""
    code: int = 0


class Findings:
    """Gathers findings, each once."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    @property
    def exit_code(self) -> int:
        """0 without errors; that of a wrong setting comes before that of bad data."""
        return min((finding.code for finding in self.all if finding.level == "error"), default=0)

    def count(self, level: Level) -> int:
        """How many of a level there are."""
        return sum(finding.level == level for finding in self.all)

    def add(self, finding: Finding) -> None:
        """Keep it, unless it is known."""
        if finding not in self.all:
            self.all.append(finding)

    def error(self, error: DistillError) -> None:
        """Keep an error and those found with it."""
        for one in (error, *error.others):
            self.add(Finding("error", one.where, one.found, one.expected, one.fix, one.exit_code))

    def warn(self, where: object, found: object, expected: str, fix: str) -> None:
        """Keep a warning."""
        self.add(Finding("warning", printable(where), printable(found, 1000), expected, fix))

    def note(self, where: object, found: object, fix: str = "") -> None:
        """Keep a note."""
        self.add(Finding("note", printable(where), printable(found, 1000), "", fix))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Keep what the block warns of, and the error that ends it, of whatever kind."""
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            except DistillError as error:
                self.error(error)
            except Exception as error:  # any part may be the user's own
                text = " ".join(str(error).split()) or "no message"
                self.add(
                    Finding(
                        "error",
                        name,
                        printable(f"{type(error).__name__}: {text}", 1000),
                        "no error",
                        "`fit --debug` shows where it comes from, if the message does not tell",
                        1,
                    )
                )
        for warning in heard:
            if warning.category is UserWarning:
                found = " ".join(str(warning.message).split())
                self.warn(name, found, "nothing to warn of", "look at those rows or settings")
