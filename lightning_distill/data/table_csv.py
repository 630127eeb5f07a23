"""CSV read as text through Arrow, after a strict look at its structure that knows every line number.

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

from lightning_distill.data.files import looks_like
from lightning_distill.errors import ManifestError

_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _Layout:
    """Where the records are, blank lines left out: arrays of one length, the header first."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    fields: NDArray[np.int64]
    line: NDArray[np.int64]


def read_csv(
    path: Path, data: bytes, choose: Callable[[list[str]], list[str]]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some columns of a CSV file (RFC 4180: commas, double quotes) as text.

    Args:
        path: File, named in errors.
        data: Its content, UTF-8, with a header line.
        choose: Gets the names of all columns and gives those to read.

    Returns:
        Column name -> Arrow string array, and the line on which each row starts, counted from 1.

    Raises:
        ManifestError: If the file is no UTF-8, a row has another number of cells than the header, or the
            quoting is damaged; names the line.
    """
    import pyarrow as pa
    import pyarrow.csv

    _check_encoding(path, data)
    content = memoryview(data)[len(_BOM) :] if data.startswith(_BOM) else memoryview(data)
    layout = _lay_out(path, np.frombuffer(content, np.uint8))
    names = _header(path, content, layout)
    wanted = choose(names)
    uneven = np.flatnonzero(layout.fields != len(names))
    if len(uneven):
        row = int(uneven[0])
        raise ManifestError(
            where=f"{path}, row {layout.line[row]}",
            found=f"{layout.fields[row]} cells",
            expected=f"{len(names)}, as in the header: {', '.join(names)}",
            fix='put a cell that holds a comma in double quotes ("a, b"); leave an absent cell empty',
        )
    line = layout.line[1:]
    if not len(line):
        return {}, line
    longest = int((layout.end - layout.start).max())
    table = pyarrow.csv.read_csv(
        pa.BufferReader(pa.py_buffer(content[layout.start[1] :])),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=max(1 << 20, 2 * longest + 2)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )
    return {name: table.column(name) for name in wanted}, line


def _check_encoding(path: Path, data: bytes) -> None:
    try:
        if not data.isascii():
            data.decode()
        at = data.find(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[1:2] == b"\0"
        kind = "UTF-16 text" if utf16 else looks_like(data[:200])
        raise ManifestError(
            where=f"{path}, byte {at}",
            found=f"the byte {data[at]:#04x}, which is no UTF-8 text; the file looks like {kind}",
            expected="UTF-8 text",
            fix="save as UTF-8 (in a spreadsheet: 'CSV UTF-8'), or name a Parquet file .parquet",
        )


def _lay_out(path: Path, text: NDArray[np.uint8]) -> _Layout:
    """Find the records; a comma or a line end counts where the number of quotes before it is even."""
    quotes = np.flatnonzero(text == _QUOTE)
    breaks = np.flatnonzero((text == _NEWLINE) | (text == _RETURN))
    breaks = breaks[(text[breaks] == _NEWLINE) | (_at(text, breaks + 1, 0) != _NEWLINE)]
    _check_quoting(path, text, quotes, breaks)
    commas, ends = np.flatnonzero(text == _COMMA), breaks
    if len(quotes):
        commas = commas[np.searchsorted(quotes, commas) % 2 == 0]
        ends = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
    start = np.append(0, ends + 1)
    two_bytes = (text[ends] == _NEWLINE) & (_at(text, ends - 1, 0) == _RETURN) & (ends > start[:-1])
    end = np.append(ends - two_bytes, len(text))
    filled = end > start
    start, end = start[filled], end[filled]
    fields = np.searchsorted(commas, end) - np.searchsorted(commas, start) + 1
    return _Layout(start, end, fields, np.searchsorted(breaks, start) + 1)


def _check_quoting(
    path: Path, text: NDArray[np.uint8], quotes: NDArray[np.int64], breaks: NDArray[np.int64]
) -> None:
    """Quotes open at the start of a cell and close at its end; two in a row inside stand for one."""
    opened, closed = quotes[::2], quotes[1::2]
    touching = opened[1:] == closed[: len(opened[1:])] + 1
    limits = (_COMMA, _NEWLINE, _RETURN)
    bad = ~np.isin(_at(text, opened - 1, _NEWLINE), limits)
    bad[1:] &= ~touching
    bad_end = ~np.isin(_at(text, closed + 1, _NEWLINE), limits)
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


def _header(path: Path, content: memoryview, layout: _Layout) -> list[str]:
    if not len(layout.start):
        raise ManifestError(
            where=path, found="0 rows: only blank lines", expected="a header and rows", fix="fill the table"
        )
    text = bytes(content[layout.start[0] : layout.end[0]]).decode()
    return next(csv.reader(StringIO(text, newline=""), strict=True))
