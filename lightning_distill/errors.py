"""Errors that say where, what was found, what was expected and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar


def printable(text: object, limit: int = 300) -> str:
    r"""Escape control characters, so that a file name can neither forge log lines nor colour a terminal.

    >>> printable("a\nb")
    'a\\nb'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def nearest(word: str, words: Iterable[str]) -> str:
    """Name the closest of `words`, as the end of a sentence; empty when none is close.

    >>> nearest("studnt", ["student", "teacher"])
    "; did you mean 'student'?"
    """
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class DistillError(Exception):
    """Base of all errors this library raises for its user.

    Args:
        where: File, row and field, or config key, or module.
        found: What was there.
        expected: What should have been there.
        fix: What to do about it.
    """

    exit_code: ClassVar[int] = 1
    others: tuple[DistillError, ...] = ()
    """What else was found wrong on the same occasion."""

    def __init__(self, *, where: object, found: object, expected: object, fix: object) -> None:
        self.where, self.found = printable(where), printable(found, 1000)
        self.expected, self.fix = printable(expected, 1000), printable(fix, 1000)
        super().__init__(f"{self.where}: found {self.found}; expected {self.expected}. To fix: {self.fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # The default passes `args`, one string, to a constructor that wants four fields.
        return _rebuild, (type(self), self.where, self.found, self.expected, self.fix, self.others)

    def __str__(self) -> str:
        count = len(self.others)
        more = f" ({count} more {'fault' if count == 1 else 'faults'}: lightning-distill doctor lists all)"
        return super().__str__() + (more if count else "")


def _rebuild(
    kind: type[DistillError],
    where: str,
    found: str,
    expected: str,
    fix: str,
    others: tuple[DistillError, ...],
) -> DistillError:
    error = kind(where=where, found=found, expected=expected, fix=fix)
    error.others = others
    return error


class Faults:
    """Gathers the errors of several checks, so that all can be told at once.

    >>> faults = Faults()
    >>> with faults.noted():
    ...     raise ConfigError(where="a", found="b", expected="c", fix="d")
    >>> len(faults.found)
    1
    """

    def __init__(self) -> None:
        self.found: list[DistillError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep the error that ends the block, and those found with it."""
        try:
            yield
        except DistillError as error:
            self.found += [error, *error.others]
            error.others = ()

    def raise_first(self) -> None:
        """Raise the first of the errors, if there are any, with the others attached."""
        if self.found:
            error = self.found[0]
            error.others = tuple(self.found[1:])
            raise error


class ConfigError(DistillError):
    """A setting is unknown, of the wrong type, out of range or contradicts another one."""

    exit_code = 2


class TeacherError(DistillError):
    """Teacher and student do not fit each other."""

    exit_code = 2


class ManifestError(DistillError):
    """The table that lists the samples is wrong."""

    exit_code = 3


class SampleError(DistillError):
    """One sample cannot be read."""

    exit_code = 3


class CheckpointError(DistillError):
    """A checkpoint or a saved student cannot be read, or does not fit."""

    exit_code = 4


class CacheError(CheckpointError):
    """What is kept on disk between runs, such as a teacher's answers, is damaged or of another version."""


class WorkerError(DistillError):
    """A process that loads data died, or has not answered for a long time."""

    exit_code = 3


class NonFiniteError(DistillError):
    """A loss, a gradient or a weight is NaN or infinite."""

    exit_code = 5


class RankError(DistillError):
    """Another process of a distributed run failed, or the processes do not see the same run."""

    exit_code = 6


class DiskError(DistillError):
    """The disk refuses: it is full, read-only, or broken."""

    exit_code = 28
