"""Tables of text: files and tables in memory read the same way, every cell traceable to its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import read_bytes
from lightning_distill.data.table_csv import read_csv
from lightning_distill.data.table_frame import FRAME, read_frame
from lightning_distill.data.table_jsonl import read_jsonl
from lightning_distill.data.table_parquet import read_parquet
from lightning_distill.errors import ManifestError, nearest

LONGEST_CELL: Final = 16 * 2**20
"""Bytes; a longer cell is content that belongs in a file."""
_Reader = Callable[[Path, bytes, Callable[[list[str]], list[str]]], tuple[dict[str, Any], NDArray[np.int64]]]
_READERS: Final[dict[str, _Reader]] = {
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".tab": partial(read_csv, delimiter="\t"),
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}


@dataclass(frozen=True)
class TextTable:
    """Some columns of a table.

    Attributes:
        path: File or folder they come from; the word "table" for one in memory.
        columns: Name -> Arrow array of text, null where the cell is empty.
        line: Of each row: in a text file the line an editor shows (a header is line 1), else its number.
    """

    path: Path | str
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
    """Read some columns of a file as text.

    `NA`, `None`, `007` and `1e5` stay what they are; only the empty cell is null.

    Args:
        path: File that ends in `.csv`, `.tsv`, `.tab`, `.jsonl`, `.ndjson` or `.parquet`.
        required: Columns that must be there.
        optional: Columns to read if they are there.

    Raises:
        ManifestError: If the file cannot be read, has no rows, lacks a column or names one twice, or a cell
            is longer than `LONGEST_CELL`.
    """
    data = read_bytes(path, path, ManifestError)
    found, line = _reader(path)(path, data, partial(_choose, path, list(required), list(optional)))
    del data  # the columns take as much again
    return _clean(path, found, line)


def column_names(path: Path) -> list[str]:
    """Names of all columns of a file, in its order, each once.

    Args:
        path: As for `read_table`.

    Raises:
        ManifestError: If the file cannot be read.
    """
    found: list[str] = []

    def take_none(names: list[str]) -> list[str]:
        found.extend(names)
        return []

    _reader(path)(path, read_bytes(path, path, ManifestError), take_none)
    return list(dict.fromkeys(found))


def _reader(path: Path) -> _Reader:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ManifestError(
            where=path,
            found=f"a file that ends in {path.suffix!r}",
            expected=f"a table that ends in {', '.join(_READERS)}",
            fix="save the table as one of these",
        )
    return read


def table_of(frame: Any, required: Iterable[str], optional: Iterable[str] = ()) -> TextTable:
    """Read some columns of a table in memory as text; as `read_table`, with the numbers of rows from 1.

    Args:
        frame: pandas, polars or Arrow table: see `read_frame`.
        required: Columns that must be there.
        optional: Columns to read if they are there.

    Raises:
        ManifestError: If it cannot be read, has no rows, lacks a column or names one twice.
    """
    found, line = read_frame(frame, partial(_choose, FRAME, list(required), list(optional)))
    return _clean(FRAME, found, line)


def _clean(path: Path | str, found: dict[str, Any], line: NDArray[np.int64]) -> TextTable:
    """Make empty cells null and refuse what no cell may hold; empties `found` to save memory."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(line):
        raise ManifestError(where=path, found="0 rows", expected="at least one row", fix="fill the table")
    text = pa.large_string()
    table = TextTable(path, {}, line)
    columns: dict[str, Any] = {}
    for name in list(found):
        cells = found.pop(name).cast(text)
        cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
        empty = pc.equal(cells, "")
        columns[name] = (
            pc.if_else(empty, pa.scalar(None, text), cells) if first_true(empty) is not None else cells
        )
        _refuse(table, name, pc.match_substring(cells, "\0"), "a NUL character", "text", "remove it")
        long = pc.greater(pc.binary_length(cells), LONGEST_CELL)
        most = f"at most {LONGEST_CELL} bytes"
        _refuse(table, name, long, "a longer cell", most, "keep long content in a file and name its path")
    return TextTable(path, columns, line)


def _refuse(table: TextTable, column: str, mask: Any, found: str, expected: str, fix: str) -> None:
    row = first_true(mask)
    if row is not None:
        raise ManifestError(where=table.where(row, column), found=found, expected=expected, fix=fix)


def _choose(path: Path | str, required: list[str], optional: list[str], names: list[str]) -> list[str]:
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
        separated = len(names) == 1 and any(c in names[0] for c in ";,\t|")
        cells = "tabs" if str(path).lower().endswith((".tsv", ".tab")) else "commas"
        raise ManifestError(
            where=f"{path}, header",
            found=f"no column {name!r} among {', '.join(map(repr, names))}"
            + (f"; did you mean {twin!r}?" if twin else nearest(name, names)),
            expected=f"a column {name!r}",
            fix=f"separate the cells with {cells}"
            if separated
            else "name one of those columns, or rename one",
        )
    return [name for name in dict.fromkeys([*required, *optional]) if name in names]
