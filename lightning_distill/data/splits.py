"""Which rows of a table train, validate and test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.cells import index_in, refuse_blanks, refuse_empty, to_numpy
from lightning_distill.data.source import SPLITS
from lightning_distill.data.tables import TextTable
from lightning_distill.errors import ConfigError, ManifestError, nearest
from lightning_distill.randomness import derive, generator, uniform

SPLIT_NAMES: Final = {"train": 0, "val": 1, "validation": 1, "valid": 1, "dev": 1, "test": 2}
"""Accepted names -> index into `SPLITS`."""
_GOLDEN: Final = (5**0.5 - 1) / 2


class Splitter(ABC):
    """Assigns each row of a table to a split.

    The assignment does not depend on the seed of a run: a seed of its own keeps test rows test rows.
    """

    required: tuple[str, ...] = ()
    """Columns that must be there."""
    optional: tuple[str, ...] = ()
    """Columns that are used if they are there."""

    @abstractmethod
    def split(
        self, table: TextTable, sample_id: NDArray[np.int64], target: NDArray[np.generic]
    ) -> NDArray[np.int8]:
        """Index into `SPLITS` of each row.

        Args:
            table: The table.
            sample_id: Content id of each row.
            target: As in `SampleTable.target`.

        Raises:
            ManifestError: If a row cannot be assigned.
        """


class RandomSplit(Splitter):
    """By chance. A row's split depends on its id alone, so rows added anywhere move no other.

    Args:
        val_share: Share of the rows for validation.
        test_share: Share of the rows for testing.
        seed: Of the split.

    Raises:
        ConfigError: If the shares leave nothing to train on.
    """

    def __init__(self, val_share: float = 0.1, test_share: float = 0.1, seed: int = 0) -> None:
        _check_shares(type(self).__name__, val_share, test_share)
        self.val_share, self.test_share, self.seed = val_share, test_share, seed

    def split(
        self, table: TextTable, sample_id: NDArray[np.int64], target: NDArray[np.generic]
    ) -> NDArray[np.int8]:
        """Draw for each id."""
        draw = uniform(self.seed, 0, sample_id, "manifest split")[:, 0]
        return _by_draw(draw, self.val_share, self.test_share)


class ColumnSplit(Splitter):
    """As a column says: `train`, `val` (also `validation`, `valid`, `dev`) or `test`.

    Args:
        column: Its name. A table need not have a column "split"; one of another name must be there.
        otherwise: What splits a table that has no such column.
    """

    def __init__(self, column: str = "split", otherwise: Splitter | None = None) -> None:
        self.column, self.otherwise = column, otherwise or RandomSplit()
        if column == "split":
            self.required = self.otherwise.required
            self.optional = (column, *self.otherwise.optional)
        else:
            self.required = (column,)

    def split(
        self, table: TextTable, sample_id: NDArray[np.int64], target: NDArray[np.generic]
    ) -> NDArray[np.int8]:
        """Read the column."""
        if self.column not in table.columns:
            return self.otherwise.split(table, sample_id, target)
        cells = table.columns[self.column]
        found = index_in(cells, list(SPLIT_NAMES))
        unknown = found < 0
        if unknown.any():
            row = int(unknown.argmax())
            cell = cells[row].as_py() or ""
            raise ManifestError(
                where=table.where(row, self.column),
                found=f"the split {cell!r}{nearest(cell.lower(), SPLIT_NAMES)} ({unknown.sum()} have none)",
                expected=f"one of {', '.join(SPLITS)} (or validation, valid, dev for val)",
                fix="correct the cell, or name another split column",
            )
        return np.array(list(SPLIT_NAMES.values()), np.int8)[found]


class GroupSplit(Splitter):
    """By chance, whole groups at a time: no speaker, patient or near-copy is on both sides.

    A group's split depends on its name alone, so rows and groups added later move no other. Shares are of
    groups; with few or uneven groups the shares of rows may differ much.

    Args:
        column: Names the group of each row.
        val_share: Share of the groups for validation.
        test_share: Share of the groups for testing.
        seed: Of the split.

    Raises:
        ConfigError: If the shares leave nothing to train on.
    """

    def __init__(self, column: str, val_share: float = 0.1, test_share: float = 0.1, seed: int = 0) -> None:
        _check_shares(type(self).__name__, val_share, test_share)
        self.column, self.seed, self.required = column, seed, (column,)
        self.val_share, self.test_share = val_share, test_share

    def split(
        self, table: TextTable, sample_id: NDArray[np.int64], target: NDArray[np.generic]
    ) -> NDArray[np.int8]:
        """Draw for each group."""
        refuse_blanks(table, self.column)
        refuse_empty(table, self.column, "the name of a group")
        encoded = table.columns[self.column].dictionary_encode()
        ids = [derive("group", name) for name in encoded.dictionary.to_pylist()]
        draw = uniform(self.seed, 0, np.array(ids, np.int64), "group split")[:, 0]
        return _by_draw(draw, self.val_share, self.test_share)[to_numpy(encoded.indices)]


class StratifiedSplit(Splitter):
    """By chance, with the same shares of every class; rows without a label are a class of their own.

    The k-th row of a class draws the k-th number of a sequence that fills [0, 1) evenly (multiples of the
    golden ratio), so that any first n rows of a class have the shares to about a row. Rows appended to the
    table move no other; rows put in between do. Rows with the same id stay together.

    Args:
        val_share: Share of the rows of each class for validation.
        test_share: Share of the rows of each class for testing.
        seed: Of the split.

    Raises:
        ConfigError: If the shares leave nothing to train on.
        ManifestError: When splitting, if rows have no single class.
    """

    def __init__(self, val_share: float = 0.1, test_share: float = 0.1, seed: int = 0) -> None:
        _check_shares(type(self).__name__, val_share, test_share)
        self.val_share, self.test_share, self.seed = val_share, test_share, seed

    def split(
        self, table: TextTable, sample_id: NDArray[np.int64], target: NDArray[np.generic]
    ) -> NDArray[np.int8]:
        """Share out each class."""
        if target.ndim != 1:
            raise ManifestError(
                where=table.path,
                found="targets with several values a row",
                expected="one class a row, to keep the shares of each",
                fix="split by RandomSplit, GroupSplit or a column",
            )
        _, first, same = np.unique(sample_id, return_index=True, return_inverse=True)
        draw = np.empty(len(sample_id))
        for stratum in np.unique(target):
            rows = np.sort(first[target[first] == stratum])
            start = generator("stratified split", self.seed, int(sample_id[rows[0]])).random()
            draw[rows] = (start + np.arange(len(rows)) * _GOLDEN) % 1
        return _by_draw(draw[first][same], self.val_share, self.test_share)


def _by_draw(draw: NDArray[np.floating], val_share: float, test_share: float) -> NDArray[np.int8]:
    split = np.zeros(len(draw), np.int8)
    split[draw < test_share + val_share] = 1
    split[draw < test_share] = 2
    return split


def _check_shares(name: str, val_share: float, test_share: float) -> None:
    if not (min(val_share, test_share) >= 0 and val_share + test_share < 1):
        raise ConfigError(
            where=f"{name}.val_share, test_share",
            found=f"{val_share}, {test_share}",
            expected="shares of 0 or more that leave rows to train on",
            fix="try 0.1 and 0.1",
        )
