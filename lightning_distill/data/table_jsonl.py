"""JSON Lines read as text: one object a line, its keys are columns.

The first line says which columns there are. Where a later one brings a wanted column, all is read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.files import BOM, check_utf8
from lightning_distill.data.table_types import EMPTY_LIST, SEPARATOR, unfit_item
from lightning_distill.errors import ManifestError

_BLOCK: Final = 512
"""Rows; so few objects at a time do not set off the garbage collector, which takes as long as the reading."""
_WORDS: Final = {True: "true", False: "false"}
_FIX: Final = "write one JSON object a line, as json.dumps does"


class _Number(str):
    """A number as the file writes it, so that 1e5 and 0.10 stay what they are."""

    __slots__ = ()


class _LineError(ValueError):
    """What is wrong with a line beyond its syntax."""


def read_jsonl(
    path: Path, data: bytes, choose: Callable[[list[str]], list[str]]
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read some keys of a file of JSON objects as columns of text; blank lines are skipped.

    Numbers stay as they are written, a list of text becomes its items joined by `|`, a missing key or `null`
    is an empty cell.

    Args:
        path: File, named in errors.
        data: Its content, UTF-8.
        choose: Gets the names of all keys and gives those to read.

    Returns:
        Key -> Arrow string array, and the line of each row, counted from 1.

    Raises:
        ManifestError: If the file is no UTF-8, a line is no JSON object or names a key twice, or a value is
            an object or another list; names the line.
    """
    check_utf8(path, data)
    names = next((list(found) for _, found in _objects(path, data)), [])
    wanted: list[str] = []
    with suppress(ManifestError):  # a later line may have what is missing here
        wanted = choose(names)
    columns, line, names = _read(path, data, wanted)
    if len(line) and (right := choose(names)) != wanted:
        columns, line, _ = _read(path, data, right)
    return columns, line


def read_object(data: bytes, where: str) -> dict[str, Any]:
    """Read one JSON object that is a file of its own; `text_of` makes text of its values.

    Args:
        data: The file.
        where: Names it in errors.

    Raises:
        ManifestError: If it is no JSON object in UTF-8, or names a key twice.
    """
    problem = "lists or objects inside each other, too deep to read"
    try:
        found = _decoder().decode(data.removeprefix(BOM).decode())
        if isinstance(found, dict):
            return found
        problem = f"{_kind(found)} in place of an object"
    except ValueError as error:  # of the encoding, the syntax or a key
        problem = f"no JSON: {error}"
    except RecursionError:
        pass
    raise ManifestError(
        where=where, found=problem, expected="one JSON object in UTF-8", fix="correct the file"
    )


def _read(path: Path, data: bytes, wanted: list[str]) -> tuple[dict[str, Any], NDArray[np.int64], list[str]]:
    """The wanted columns, the line of each row, and the names of all columns."""
    import pyarrow as pa

    objects, names, line = _objects(path, data), dict[str, None](), list[int]()
    blocks: dict[str, list[Any]] = {name: [] for name in wanted}
    while block := list(islice(objects, _BLOCK)):
        lines = [number for number, _ in block]
        line += lines
        for _, found in block:
            names.update(found)
        for name, arrays in blocks.items():
            arrays.append(_column(path, name, [found.get(name) for _, found in block], lines))
    columns = {name: pa.chunked_array(arrays, pa.large_string()) for name, arrays in blocks.items()}
    return columns, np.array(line, np.int64), list(names)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _LineError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return found


def _no_number(word: str) -> Any:
    raise _LineError(f"{word}, which is no JSON")


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_pairs, parse_int=_Number, parse_float=_Number, parse_constant=_no_number
    )


def _objects(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object on each line that is not blank, with the number of the line."""
    decoder = _decoder()
    file = BytesIO(data)
    file.seek(len(BOM) if data.startswith(BOM) else 0)
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            found = decoder.decode(line.decode())
        except json.JSONDecodeError as error:
            problem = f"no JSON: {error.msg} at character {error.colno}"
            raise _bad_line(path, number, problem) from error
        except _LineError as error:
            raise _bad_line(path, number, str(error)) from error
        except RecursionError:
            raise _bad_line(path, number, "lists or objects inside each other, too deep to read") from None
        if not isinstance(found, dict):
            raise _bad_line(path, number, f"{_kind(found)} in place of an object")
        yield number, found


def _bad_line(path: Path, number: int, problem: str) -> ManifestError:
    return ManifestError(
        where=f"{path}, row {number}", found=problem, expected="one JSON object a line", fix=_FIX
    )


def _column(path: Path, name: str, values: list[Any], lines: list[int]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, pa.large_string())
    except (pa.ArrowException, ValueError):  # not all of them text
        where = f"{path}, row {{}}, column {name!r}"
        texts = [text_of(v, where.format(n)) for v, n in zip(values, lines, strict=True)]
        return pa.array(texts, pa.large_string())


def text_of(value: Any, where: str) -> str | None:
    """The text of a value of a JSON object; None where it is null.

    Raises:
        ManifestError: If it has no plain text; says `where`.
    """
    if value is None or value is True or value is False:
        return None if value is None else _WORDS[value]
    if isinstance(value, list) and all(type(item) is str for item in value):
        unfit = next((item for item in value if not item or SEPARATOR in item), None)
        if unfit is not None:
            raise unfit_item(where, unfit)
        value = SEPARATOR.join(value) or EMPTY_LIST
    if not isinstance(value, str):
        raise ManifestError(
            where=where,
            found=_kind(value),
            expected="text, a number, true, false or null, or a list of text",
            fix="keep one value a key: the path of a file instead of its content",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(
            where=where,
            found=f"half a character: {value[error.start]!a} without its other half",
            expected="whole Unicode characters",
            fix="correct or remove it",
        ) from error
    return value


def _kind(value: Any) -> str:
    if isinstance(value, _Number):
        return f"the number {value}"
    if isinstance(value, list):
        return "a list" if not value else f"a list with {_kind(value[0])}"
    kinds = {dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return kinds[type(value)]
