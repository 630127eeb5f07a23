"""Targets in a table: one class a row, any number of classes, or numbers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.cells import index_in, refuse_blanks, to_numpy
from lightning_distill.data.table_types import EMPTY_LIST
from lightning_distill.data.tables import TextTable, first_true
from lightning_distill.errors import ConfigError, ManifestError, nearest
from lightning_distill.structures import UNKNOWN, UNLABELLED


class Labels(NamedTuple):
    """What a target makes of a table.

    Attributes:
        names: Of the classes, or of the columns of numbers.
        values: As in `SampleTable.target`.
    """

    names: tuple[str, ...]
    values: NDArray[Any]


class Target(ABC):
    """Which columns of a table hold what the student is to say, and how to read them."""

    columns: tuple[str, ...]
    """Columns that must be there."""

    @abstractmethod
    def read(self, table: TextTable) -> Labels:
        """Read the labels of every row; an empty cell is an unknown label.

        Raises:
            ManifestError: If a cell cannot be read as one; names row and column.
        """


class SingleLabel(Target):
    """One class a row.

    Args:
        column: Holds the name of the class.
        classes: Names in order; None takes those of the table, sorted (as numbers if all are whole numbers).

    Raises:
        ConfigError: If a name is given twice, or fewer than two are.
    """

    def __init__(self, column: str = "label", classes: list[str] | None = None) -> None:
        _check_classes(type(self).__name__, classes, least=2)
        self.column, self.classes, self.columns = column, classes, (column,)

    def read(self, table: TextTable) -> Labels:
        """int64 class indices, `UNLABELLED` where the cell is empty."""
        import pyarrow.compute as pc

        labels = table.columns[self.column]
        refuse_blanks(table, self.column)
        names = self.classes or in_order(pc.unique(labels.drop_null()).to_pylist())
        if len(names) < 2:
            count = len(labels) - labels.null_count
            raise ManifestError(
                where=f"{table.path}, column {self.column!r}",
                found=f"only the class {names[0]!r} in {count} labelled rows" if names else "no labels",
                expected="two classes or more",
                fix="check the column, name the `classes` if some are not here, or take `Unlabelled`",
            )
        target = index_in(labels, names)
        unknown = (target < 0) & to_numpy(labels.is_valid())
        if unknown.any():
            row = int(unknown.argmax())
            raise _unknown(table, row, self.column, labels[row].as_py(), names, int(unknown.sum()))
        return Labels(tuple(names), np.where(target < 0, UNLABELLED, target))


class MultiLabel(Target):
    """Any number of classes a row, in one cell.

    An empty cell is an unlabelled row. A row that belongs to none of the classes says so by `none`.

    Args:
        column: Holds the names of the row's classes.
        separator: Between two names.
        classes: Names in order; None takes those of the table, sorted.
        none: What a cell holds that names no class.

    Raises:
        ConfigError: If a name is given twice or is `none`, or the separator is empty.
    """

    def __init__(
        self,
        column: str = "labels",
        separator: str = "|",
        classes: list[str] | None = None,
        none: str = EMPTY_LIST,
    ) -> None:
        _check_classes(type(self).__name__, classes, least=1)
        if not separator or separator in none or none in (classes or ()):
            raise ConfigError(
                where=f"{type(self).__name__}",
                found=f"separator={separator!r}, none={none!r}",
                expected="a separator, and a word for no class that is no class and does not hold it",
                fix="for example separator='|', none='-'",
            )
        self.column, self.separator, self.classes, self.none = column, separator, classes, none
        self.columns = (column,)

    def read(self, table: TextTable) -> Labels:
        """int8 "rows classes", `UNKNOWN` in rows with an empty cell."""
        import pyarrow.compute as pc

        refuse_blanks(table, self.column)
        cells = table.columns[self.column]
        named = pc.if_else(pc.equal(cells, self.none), None, cells)
        parts = pc.split_pattern(named, self.separator)
        words, rows = pc.list_flatten(parts), to_numpy(pc.list_parent_indices(parts))
        self._check_words(table, words, rows)
        names = self.classes or in_order(pc.unique(words).to_pylist())
        if not names:
            raise ManifestError(
                where=f"{table.path}, column {self.column!r}",
                found="no labels",
                expected="names of classes",
                fix="check the column, or name the `classes`",
            )
        at = index_in(words, names)
        if (at < 0).any():
            first = int((at < 0).argmax())
            raise _unknown(
                table, int(rows[first]), self.column, words[first].as_py(), names, int((at < 0).sum())
            )
        values = np.zeros((len(cells), len(names)), np.int8)
        values[rows, at] = 1
        if len(np.unique(rows * len(names) + at)) < len(at):
            order = np.sort(rows * len(names) + at)
            twice = int(order[np.flatnonzero(order[1:] == order[:-1])[0]])
            raise ManifestError(
                where=table.where(twice // len(names), self.column),
                found=f"the class {names[twice % len(names)]!r} twice",
                expected="each class once",
                fix="remove one of the two",
            )
        values[to_numpy(cells.is_null())] = UNKNOWN
        return Labels(tuple(names), values)

    def _check_words(self, table: TextTable, words: Any, rows: NDArray[np.int64]) -> None:
        import pyarrow.compute as pc

        trimmed = pc.utf8_trim_whitespace(words)
        wrong = first_true(pc.or_(pc.equal(words, ""), pc.not_equal(trimmed, words)))
        if wrong is not None:
            row = int(rows[wrong])
            raise ManifestError(
                where=table.where(row, self.column),
                found=f"{table.columns[self.column][row].as_py()!r}, in which a name is empty or has blanks",
                expected=f"names separated by {self.separator!r} alone",
                fix=f"write a{self.separator}b, {self.none!r} for no class, or nothing if not known",
            )


class RegressionTarget(Target):
    """Numbers, one column each.

    Args:
        columns: Hold the numbers.

    Raises:
        ConfigError: If there is no column, or one twice.
    """

    def __init__(self, columns: list[str]) -> None:
        _check_classes(type(self).__name__, columns, least=1, what="columns")
        self.columns = tuple(columns)

    def read(self, table: TextTable) -> Labels:
        """float32 "rows columns", NaN where the cell is empty."""
        return Labels(self.columns, np.stack([numbers(table, c) for c in self.columns], axis=1))


def numbers(table: TextTable, column: str) -> NDArray[np.float32]:
    """The finite numbers in a column, NaN where a cell is empty.

    Raises:
        ManifestError: If a cell holds no finite number; names its row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.columns[column]
    shaped = pc.match_substring_regex(cells, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")
    row = first_true(pc.invert(shaped))
    values = np.full(len(cells), np.nan, np.float32)
    if row is None:
        unsigned = pc.utf8_ltrim(cells, characters="+")
        with np.errstate(over="ignore"):
            values = to_numpy(unsigned.cast(pa.float64())).astype(np.float32)
        beyond = np.isinf(values)
        row = int(beyond.argmax()) if beyond.any() else None
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found=repr(cells[row].as_py()),
            expected="a finite number with a decimal point, such as -1.5 or 2e3",
            fix="correct the cell, or leave it empty if the value is not known",
        )
    return values


def in_order(labels: Sequence[str]) -> list[str]:
    """Sort labels: by value if all are whole numbers, as text otherwise.

    >>> in_order(["10", "9", "0"]), in_order(["10", "9", "007"])
    (['0', '9', '10'], ['007', '10', '9'])
    """
    if all(re.fullmatch("0|-?[1-9][0-9]{0,17}", label) for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _check_classes(name: str, classes: list[str] | None, least: int, what: str = "classes") -> None:
    if classes is not None and (len(set(classes)) != len(classes) or len(classes) < least):
        raise ConfigError(
            where=f"{name}.{what}",
            found=classes,
            expected=f"{least} or more names, each once",
            fix="remove what is there twice" if len(classes) >= least else "name them all",
        )


def _unknown(
    table: TextTable, row: int, column: str, label: str, classes: Sequence[str], count: int
) -> ManifestError:
    return ManifestError(
        where=table.where(row, column),
        found=f"the label {label!r}{nearest(label, classes)} ({count} unknown labels in all)",
        expected=f"one of the {len(classes)} classes: {', '.join(classes[:20])}"
        + (", ..." if len(classes) > 20 else ""),
        fix="correct the label, add it to `classes`, or leave the cell empty",
    )
