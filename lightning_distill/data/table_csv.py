"""CSV and TSV read as text through Arrow, after a strict look at its structure that knows every line number.

Arrow alone joins rows over an unclosed quote and drops text after a closing one, both in silence.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import BOM, check_utf8
from lightning_distill.errors import ManifestError

_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_BLOCK: Final = 1 << 22
_LARGEST_BLOCK: Final = (1 << 31) - 1
_NAMES: Final = {",": "a comma", "\t": "a tab"}


@dataclass(frozen=True)
class _Layout:
    """Where the records are, blank lines left out: arrays of one length, the header first."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    fields: NDArray[np.int64]
    line: NDArray[np.int64]


def read_csv(
    path: Path, data: bytes, choose: Callable[[list[str]], list[str]], delimiter: str = ","
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some columns of a CSV file (RFC 4180: double quotes) as text.

    Args:
        path: File, named in errors.
        data: Its content, UTF-8, with a header line.
        choose: Gets the names of all columns and gives those to read.
        delimiter: Between two cells: a comma or a tab.

    Returns:
        Column name -> Arrow string array, and the line on which each row starts, counted from 1.

    Raises:
        ManifestError: If the file is no UTF-8, a row has another number of cells than the header, or the
            quoting is damaged; names the line.
    """
    check_utf8(path, data)
    content = memoryview(data)[len(BOM) :] if data.startswith(BOM) else memoryview(data)
    layout = _lay_out(path, np.frombuffer(content, np.uint8), ord(delimiter))
    names = _header(path, content, layout, delimiter)
    wanted = choose(names)
    uneven = np.flatnonzero(layout.fields != len(names))
    if len(uneven):
        row = int(uneven[0])
        raise ManifestError(
            where=f"{path}, row {layout.line[row]}",
            found=f"{layout.fields[row]} cells",
            expected=f"{len(names)}, as in the header: {', '.join(names)}",
            fix=f"put a cell that holds {_NAMES[delimiter]} in double quotes; leave an absent cell empty",
        )
    line, start = layout.line[1:], layout.start
    if not len(line):
        return {}, line
    longest = int((layout.end - start).max())
    if 2 * longest + 2 > _LARGEST_BLOCK:
        raise ManifestError(
            where=f"{path}, row {layout.line[(layout.end - start).argmax()]}",
            found=f"{longest} bytes",
            expected=f"at most {_LARGEST_BLOCK // 2 - 1}",
            fix="keep long content in files and name their paths",
        )
    rows = content[start[1] :]
    del layout, start
    return _columns(rows, names, wanted, delimiter, 2 * longest + 2), line


def _columns(
    rows: memoryview, names: list[str], wanted: list[str], delimiter: str, block: int
) -> dict[str, Any]:
    """Let Arrow read rows whose structure is known to be sound."""
    import pyarrow as pa
    import pyarrow.csv

    table = pyarrow.csv.read_csv(
        pa.BufferReader(pa.py_buffer(rows)),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=max(1 << 20, block)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=delimiter),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.large_string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return {name: table.column(name) for name in wanted}


def _lay_out(path: Path, text: NDArray[np.uint8], delimiter: int) -> _Layout:
    """Find the records; a delimiter or a line end counts where the number of quotes before it is even."""
    quotes = _positions(text, _QUOTE)
    breaks = _positions(text, _NEWLINE, _RETURN)
    breaks = breaks[(text[breaks] == _NEWLINE) | (_at(text, breaks + 1, 0) != _NEWLINE)]
    _check_quoting(path, text, quotes, breaks, delimiter)
    delimiters, ends = _positions(text, delimiter), breaks
    if len(quotes):
        delimiters = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
        ends = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
    start = np.append(0, ends + 1)
    two_bytes = (text[ends] == _NEWLINE) & (_at(text, ends - 1, 0) == _RETURN) & (ends > start[:-1])
    end = np.append(ends - two_bytes, len(text))
    filled = end > start
    start, end = start[filled], end[filled]
    fields = np.searchsorted(delimiters, end) - np.searchsorted(delimiters, start) + 1
    return _Layout(start, end, fields, np.searchsorted(breaks, start) + 1)


def _positions(text: NDArray[np.uint8], *wanted: int) -> NDArray[np.int64]:
    """Where these bytes are. In blocks: a mask of a large file takes as much memory as the file."""
    found = [np.empty(0, np.int64)]
    for at in range(0, len(text), _BLOCK):
        block = text[at : at + _BLOCK]
        hit = block == wanted[0]
        for byte in wanted[1:]:
            hit |= block == byte
        found.append(np.flatnonzero(hit) + at)
    return np.concatenate(found)


def _check_quoting(
    path: Path,
    text: NDArray[np.uint8],
    quotes: NDArray[np.int64],
    breaks: NDArray[np.int64],
    delimiter: int,
) -> None:
    """Quotes open at the start of a cell and close at its end; two in a row inside stand for one."""
    opened, closed = quotes[::2], quotes[1::2]
    touching = opened[1:] == closed[: len(opened[1:])] + 1
    limits = np.zeros(256, np.bool_)
    limits[[delimiter, _NEWLINE, _RETURN]] = True
    bad = ~limits[_at(text, opened - 1, _NEWLINE)]
    bad[1:] &= ~touching
    bad_end = ~limits[_at(text, closed + 1, _NEWLINE)]
    bad_end[: len(touching)] &= ~touching
    bad[: len(closed)] |= bad_end
    bad[len(closed) :] = True
    if bad.any():
        at = int(opened[bad.argmax()])
        near = bytes(text[max(at - 10, 0) : at + 30]).decode("utf-8", "replace")
        raise ManifestError(
            where=f"{path}, row {np.searchsorted(breaks, at) + 1}",
            found=f"a stray double quote: {near!r}",
            expected="quotes around a whole cell, and two in a row for one inside it",
            fix='write "say ""hi""" for the text: say "hi"',
        )


def _at(text: NDArray[np.uint8], position: NDArray[np.int64], beyond: int) -> NDArray[np.uint8]:
    """The bytes at these positions, `beyond` where there are none."""
    inside = (position >= 0) & (position < len(text))
    found = np.full(len(position), beyond, np.uint8)
    found[inside] = text[position[inside]]
    return found


def _header(path: Path, content: memoryview, layout: _Layout, delimiter: str) -> list[str]:
    if not len(layout.start):
        raise ManifestError(
            where=path, found="0 rows: only blank lines", expected="a header and rows", fix="fill the table"
        )
    text = bytes(content[layout.start[0] : layout.end[0]]).decode()
    return next(csv.reader(StringIO(text, newline=""), strict=True, delimiter=delimiter))
