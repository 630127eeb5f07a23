"""What the columns of a Hugging Face data set become: text, or the bytes of images and sounds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_distill.data.files import read_bytes
from lightning_distill.data.splits import SPLIT_NAMES
from lightning_distill.data.table_types import to_text
from lightning_distill.data.targets import MultiLabel, SingleLabel, Target
from lightning_distill.errors import ConfigError, ManifestError, SampleError, nearest


def import_datasets() -> Any:
    """The package `datasets`.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            where="reading a Hugging Face data set",
            found=f"no package for it ({error})",
            expected="the package datasets",
            fix="pip install lightning-distill[huggingface]",
        ) from error
    return datasets


def open_saved(path: Path) -> Any:
    """Open what `save_to_disk` wrote.

    Raises:
        ManifestError: If the folder holds no such thing.
    """
    datasets = import_datasets()
    try:
        if not path.is_dir():
            raise FileNotFoundError("no such folder")
        return datasets.load_from_disk(str(path.absolute()))
    except Exception as error:  # datasets and Arrow raise what they like
        raise ManifestError(
            where=path,
            found=f"no data set that can be opened ({' '.join(str(error).split())})",
            expected="a folder that save_to_disk wrote",
            fix="correct the path, or save the data set again: dataset.save_to_disk(path)",
        ) from error


def named_target(target: Target, features: Mapping[str, Any] | None) -> Target:
    """The target with the names of the classes that a feature has, in their order, if it names none."""
    if not isinstance(target, SingleLabel | MultiLabel) or target.classes is not None:
        return target
    names = _class_names((features or {}).get(target.column))
    if not names:
        return target
    target = copy.copy(target)
    target.classes = list(names)
    return target


def choose_columns(origin: object, names: list[str], required: list[str], optional: list[str]) -> list[str]:
    """The columns to read.

    Raises:
        ManifestError: If a required one is missing.
    """
    for name in required:
        if name not in names:
            raise ManifestError(
                where=origin,
                found=f"no column {name!r} among {', '.join(map(repr, names))}{nearest(name, names)}",
                expected=f"a column {name!r}",
                fix="name one of those columns",
            )
    return [name for name in dict.fromkeys([*required, *optional]) if name in names]


def text_column(origin: object, name: str, column: Any, feature: Any) -> Any:
    """A column as Arrow large strings: classes by their names, the rest by the rules of `to_text`.

    Raises:
        ManifestError: If it has no plain text, or a cell holds a NUL character.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    names = _class_names(feature)
    if names:
        try:
            column = _named(column, names)
        except (pa.ArrowException, IndexError) as error:
            raise ManifestError(
                where=f"{origin}, column {name!r}",
                found=f"an index that stands for no class ({error})",
                expected=f"0 to {len(names) - 1}, or -1 for no label",
                fix="make the data set again",
            ) from error
    text = to_text(origin, name, column)
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    if pc.any(pc.match_substring(text, "\0")).as_py():
        raise ManifestError(
            where=f"{origin}, column {name!r}",
            found="a NUL character",
            expected="text",
            fix="remove it",
        )
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.large_string()), text)


def _class_names(feature: Any) -> list[str]:
    """Names of the classes of a ClassLabel, or of a list of them."""
    inner = getattr(feature, "feature", feature)
    return list(getattr(inner, "names", None) or [])


def _named(column: Any, names: list[str]) -> Any:
    """Indices as names; -1, which stands for no label, as null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if hasattr(column.type, "value_type"):
        values = _named(column.flatten(), names)
        return pa.ListArray.from_arrays(_offsets(column), values, mask=column.is_null())
    return pa.array(names, pa.string()).take(pc.if_else(pc.equal(column, -1), None, column))


def _offsets(lists: Any) -> Any:
    """Where each list begins in the flattened values, in which null lists have none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))


def media_bytes(cell: Any, where: str, trusted: bool) -> bytes | None:
    """The bytes of an Image, an Audio or a binary cell; None where it is empty.

    Args:
        cell: As Arrow gives it: bytes, or `bytes` and `path`.
        where: Names data set, row and column in errors.
        trusted: Read the file where there is only a path.

    Raises:
        SampleError: If they are not there.
    """
    if isinstance(cell, str):
        cell = {"path": cell}
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    path = str(cell.get("path") or "") if isinstance(cell, Mapping) else ""
    if data is None and not path:
        return None
    if data is None and trusted and "://" not in path:
        return read_bytes(Path(path), where)
    if not isinstance(data, bytes) or not data:
        raise SampleError(
            where=where,
            found="an empty cell (0 bytes)"
            if data == b""
            else f"the path {path!r}, which the data set does not hold"
            if data is None
            else f"a value of type {type(data).__name__}",
            expected="the content of an image or a sound",
            fix="embed the files: dataset.save_to_disk(path), or dataset.cast_column(name, datasets.Image())",
        )
    return data


def split_of(name: str, origin: object) -> int:
    """Index into `SPLITS` of the split that a data set calls so.

    Raises:
        ManifestError: If it stands for none.
    """
    if name not in SPLIT_NAMES:
        raise ManifestError(
            where=origin,
            found=f"the split {name!r}{nearest(name, SPLIT_NAMES)}",
            expected=f"splits among {', '.join(SPLIT_NAMES)}",
            fix="rename or drop it in Python, and give the data set itself or save it again",
        )
    return SPLIT_NAMES[name]
