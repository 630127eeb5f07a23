"""The columns of a table, as far as `init` looks at them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.data.table_types import to_text
from lightning_distill.data.tables import TextTable, column_names, read_table
from lightning_distill.errors import ManifestError

LOOKED_AT: Final = 2000
"""Rows, spread over the table, that tell what a column is."""
_SHORT: Final = 64
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Column:
    """Some of a column's cells.

    Attributes:
        name: Of the column.
        cells: Those that are not empty, of the rows that are looked at.
        whole: The whole column, Arrow large strings, null where empty.
    """

    name: str
    cells: list[str]
    whole: Any

    def share_of_files(self, root: Path, suffixes: Iterable[str]) -> tuple[float, float]:
        """Which share of the cells end like such files, and which are such files."""
        ends = tuple(suffixes)
        named = [cell for cell in self.cells if cell.lower().endswith(ends)]
        there = sum(os.path.isfile(os.path.join(root, cell)) for cell in named)
        return len(named) / max(len(self.cells), 1), there / max(len(self.cells), 1)

    def share_with(self, part: str) -> float:
        """Which share of the cells hold a text."""
        return sum(part in cell for cell in self.cells) / max(len(self.cells), 1)

    @cached_property
    def distinct(self) -> int:
        """Different cells in the whole column."""
        import pyarrow.compute as pc

        return int(pc.count_distinct(self.whole).as_py())

    @cached_property
    def length(self) -> float:
        """Mean length of a cell, characters."""
        return float(np.mean([len(cell) for cell in self.cells])) if self.cells else 0.0

    @property
    def is_short(self) -> bool:
        """Whether all cells are as short as names are."""
        return all(len(cell) <= _SHORT for cell in self.cells)

    @property
    def filled(self) -> int:
        """Cells that are not empty, in the whole column."""
        return len(self.whole) - self.whole.null_count

    @cached_property
    def numbers(self) -> list[float] | None:
        """The cells as numbers; None if some are none."""
        import re

        if not self.cells or not all(re.match(_NUMBER, cell) for cell in self.cells):
            return None
        return [float(cell) for cell in self.cells]


@dataclass(frozen=True)
class Columns:
    """All columns of a table that can be read as text.

    Attributes:
        table: Them.
        root: Folder that paths start from.
        left_out: Column -> why it is not in the table.
        media: Column -> modality, where the data say so themselves.
    """

    table: TextTable
    root: Path
    left_out: dict[str, str] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return len(self.table)

    @cached_property
    def all(self) -> dict[str, Column]:
        """Name -> column."""
        import pyarrow as pa

        at = np.linspace(0, self.rows - 1, min(self.rows, LOOKED_AT)).astype(np.int64)
        rows = pa.array(at)
        return {
            name: Column(name, cells.take(rows).drop_null().to_pylist(), cells)
            for name, cells in self.table.columns.items()
        }


def columns_of(path: Path) -> Columns:
    """Read a table.

    Raises:
        ManifestError: If it cannot be read.
    """
    left_out = _unreadable(path) if path.suffix.lower() == ".parquet" else {}
    names = [name for name in column_names(path) if name not in left_out]
    return Columns(read_table(path, names), path.parent, left_out)


def _unreadable(path: Path) -> dict[str, str]:
    """Columns of a Parquet file whose type has no plain text."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return {}  # whoever reads the file says what is wrong with it
    found = {}
    for name in dict.fromkeys(schema.names):
        kind = schema.field(schema.names.index(name)).type
        try:
            to_text(path, name, pa.array([], kind))
        except ManifestError:
            found[name] = f"of the type {kind}"
        except (pa.ArrowException, TypeError):
            continue
    return found
