"""Tables of text: CSV and Parquet read the same way, every cell traceable to its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import read_bytes
from lightning_distill.data.table_csv import read_csv
from lightning_distill.data.table_parquet import read_parquet
from lightning_distill.errors import ManifestError, nearest


@dataclass(frozen=True)
class TextTable:
    """Some columns of a table.

    Attributes:
        path: File they come from.
        columns: Name -> Arrow array of text, null where the cell is empty.
        line: Of each row: in CSV the line an editor shows (the header is line 1), in Parquet its number.
    """

    path: Path
    columns: Mapping[str, Any]
    line: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.line)

    def where(self, row: int, column: str = "") -> str:
        """Names file, row and column in errors."""
        return f"{self.path}, row {self.line[row]}" + (f", column {column!r}" if column else "")


def first_true(mask: Any) -> int | None:
    """The first row at which an Arrow mask holds.

    >>> import pyarrow as pa
    >>> first_true(pa.array([False, None, True, True]))
    2
    """
    import pyarrow.compute as pc

    row = pc.index(mask, True).as_py()
    return None if row < 0 else int(row)


def read_table(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> TextTable:
    """Read some columns of a CSV or Parquet file as text.

    `NA`, `None`, `007` and `1e5` stay what they are; only the empty cell is null.

    Args:
        path: File that ends in `.csv` or `.parquet`.
        required: Columns that must be there.
        optional: Columns to read if they are there.

    Raises:
        ManifestError: If the file cannot be read, has no rows, lacks a column or names one twice.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    readers = {".csv": read_csv, ".parquet": read_parquet}
    data = read_bytes(path, path, ManifestError)
    if path.suffix.lower() not in readers:
        raise ManifestError(
            where=path,
            found=f"a file that ends in {path.suffix!r}",
            expected="a CSV file (.csv) or a Parquet file (.parquet)",
            fix="save the table as one of the two",
        )
    required, optional = list(required), list(optional)
    read = readers[path.suffix.lower()]
    found, line = read(path, data, lambda names: _choose(path, names, required, optional))
    if not len(line):
        raise ManifestError(
            where=path, found="0 rows: only a header", expected="at least one row", fix="fill the table"
        )
    columns = {}
    for name, cells in found.items():
        cells = cells.cast(pa.large_string()).combine_chunks()
        columns[name] = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.large_string()), cells)
    table = TextTable(path, columns, line)
    for name, cells in columns.items():
        row = first_true(pc.match_substring(cells, "\0"))
        if row is not None:
            raise ManifestError(
                where=table.where(row, name), found="a NUL character", expected="text", fix="remove it"
            )
    return table


def _choose(path: Path, names: list[str], required: list[str], optional: list[str]) -> list[str]:
    """The columns to read, once each."""
    for name in dict.fromkeys(names):
        if name and names.count(name) > 1:
            places = ", ".join(str(at) for at, other in enumerate(names, 1) if other == name)
            raise ManifestError(
                where=f"{path}, header",
                found=f"the column name {name!r} at positions {places}",
                expected="each name once",
                fix="rename or drop one of them",
            )
    twins = {name.strip().casefold(): name for name in names}
    for name in (*required, *optional):
        twin = twins.get(name.strip().casefold())
        if name in names or (name in optional and twin is None):
            continue
        separated = len(names) == 1 and any(c in names[0] for c in ";\t|")
        raise ManifestError(
            where=f"{path}, header",
            found=f"no column {name!r} among {', '.join(map(repr, names))}"
            + (f"; did you mean {twin!r}?" if twin else nearest(name, names)),
            expected=f"a column {name!r}",
            fix="separate the cells with commas" if separated else "name one of those columns, or rename one",
        )
    return [name for name in dict.fromkeys([*required, *optional]) if name in names]
