"""Which column holds the labels, and of what kind they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from lightning_distill.commands.init.columns import Column, Columns
from lightning_distill.data.targets import MultiLabel, RegressionTarget, SingleLabel, Target
from lightning_distill.errors import ConfigError, nearest

NAMES: Final = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "category",
    "categories",
    "tags",
    "cls",
    "y",
)
_SEPARATORS: Final = ("|", "; ", ";")
_OFTEN: Final = 0.5
_SOME: Final = 0.1


def label_column(columns: Columns, free: Collection[str], given: str | None) -> Column:
    """The column of the labels.

    Args:
        columns: All columns.
        free: Names of those that are nothing else yet.
        given: Name that the user gave, if any.

    Raises:
        ConfigError: If there is no such column, or no telling which it is; lists the columns.
    """
    if given is not None:
        if given not in columns.all:
            raise _unclear(columns, f"--label {given}{nearest(given, columns.all)}", "the name of a column")
        return columns.all[given]
    named = [columns.all[name] for name in free if name.casefold() in NAMES]
    found = named or [
        columns.all[name] for name in free if _could_be_classes(columns.all[name], columns.rows)
    ]
    if len(found) != 1:
        names = ", ".join(column.name for column in found)
        raise _unclear(columns, f"{len(found)} columns that could be the label: {names}" if found else _NONE)
    return found[0]


_NONE: Final = "no column that could be the label: none has a few short values that come again"


def target_of(column: Column, rows: int) -> Target:
    """How to read the labels: one class a row, any number of classes, or a number.

    Args:
        column: Of the labels.
        rows: Of the table.

    Raises:
        ConfigError: If most rows have a text of their own.
    """
    numbers = column.numbers
    if numbers is not None:
        whole = all(number.is_integer() for number in numbers)
        return (
            SingleLabel(column.name) if whole and column.distinct <= most_classes(rows) else _number(column)
        )
    separator = next((part for part in _SEPARATORS if column.share_with(part) > _threshold(column)), None)
    if separator is not None:
        return MultiLabel(column.name, separator=separator)
    if column.distinct > column.filled // 2:
        raise ConfigError(
            where=f"column {column.name!r}",
            found=f"{column.distinct} different texts in {column.filled} labelled rows",
            expected="names of classes, each in several rows",
            fix="name the column of the labels with --label COLUMN",
        )
    return SingleLabel(column.name)


def most_classes(rows: int) -> int:
    """The most classes that are believed of a table without being told.

    >>> most_classes(100), most_classes(4000)
    (50, 200)
    """
    return max(50, rows // 20)


def _threshold(column: Column) -> float:
    """How many cells must hold a separator: fewer if the name is a plural."""
    return _SOME if column.name.casefold() in ("labels", "tags", "categories", "classes") else _OFTEN


def _number(column: Column) -> Target:
    return RegressionTarget([column.name])


def _could_be_classes(column: Column, rows: int) -> bool:
    few = 2 <= column.distinct <= min(most_classes(rows), column.filled // 2)
    return few and column.is_short and not any("://" in cell for cell in column.cells)


def _unclear(columns: Columns, found: str, expected: str = "one") -> ConfigError:
    names = ", ".join(f"{c.name} ({c.distinct} different cells)" for c in columns.all.values())
    return ConfigError(
        where=columns.table.path,
        found=f"{found}; it has {names}",
        expected=expected,
        fix="name the column of the labels with --label COLUMN",
    )
