"""What the columns of a manifest mean: classes, splits, domains and content ids."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import SPLITS
from lightning_distill.data.tables import TextTable, first_true
from lightning_distill.errors import ManifestError, nearest
from lightning_distill.randomness import uniform
from lightning_distill.structures import UNLABELLED

SPLIT_NAMES: Final = {"train": 0, "val": 1, "validation": 1, "valid": 1, "dev": 1, "test": 2}
"""Accepted names -> index into `SPLITS`."""


def content_ids(table: TextTable, columns: Mapping[str, str]) -> NDArray[np.int64]:
    """An id a row from what its modalities' cells say, whatever the order of rows and columns.

    Computed as blake2b, 64 bits, of `modality NUL cell` joined by NUL, modalities in alphabetical order (no
    cell holds a NUL); little-endian, signed.

    Args:
        table: The table.
        columns: modality -> column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    parts: list[Any] = []
    for modality in sorted(columns):
        parts += [pa.scalar(modality, pa.large_string()), pc.fill_null(table.columns[columns[modality]], "")]
    keys = pc.binary_join_element_wise(*parts, pa.scalar("\0", pa.large_string()))
    digests = bytearray()
    for start in range(0, len(keys), 1 << 16):
        for key in keys[start : start + (1 << 16)].to_pylist():
            digests += hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.frombuffer(digests, "<i8").astype(np.int64)


def classes_of(
    table: TextTable, column: str, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the classes, and the class index of each row, `UNLABELLED` where the cell is empty.

    Args:
        table: The table.
        column: Holds the labels.
        classes: Names in order; None takes those of the table.

    Raises:
        ManifestError: If a label is unknown or has blanks around it, or there are fewer than two classes.
    """
    import pyarrow.compute as pc

    labels = table.columns[column]
    _refuse_blanks(table, column)
    if classes is None:
        classes = in_order(pc.unique(labels.drop_null()).to_pylist())
        if len(classes) < 2:
            count = len(labels) - labels.null_count
            raise ManifestError(
                where=f"{table.path}, column {column!r}",
                found=f"only the class {classes[0]!r} in {count} labelled rows" if classes else "no labels",
                expected="two classes or more",
                fix="check the column, or name all `classes` if this table shows but a part of them",
            )
    target = _index(labels, classes)
    unknown = (target < 0) & _to_numpy(labels.is_valid())
    if unknown.any():
        row = int(unknown.argmax())
        label = labels[row].as_py()
        raise ManifestError(
            where=table.where(row, column),
            found=f"the label {label!r}{nearest(label, classes)} ({unknown.sum()} rows have unknown labels)",
            expected=f"one of the {len(classes)} classes: {', '.join(classes[:20])}"
            + (", ..." if len(classes) > 20 else ""),
            fix="correct the label, add it to `classes`, or leave the cell empty",
        )
    return tuple(classes), np.where(target < 0, UNLABELLED, target)


def in_order(labels: Sequence[str]) -> list[str]:
    """Sort labels: by value if all are whole numbers, as text otherwise.

    >>> in_order(["10", "9", "0"]), in_order(["10", "9", "007"])
    (['0', '9', '10'], ['007', '10', '9'])
    """
    if all(re.fullmatch("0|-?[1-9][0-9]{0,17}", label) for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def splits_of(table: TextTable, column: str) -> NDArray[np.int8]:
    """Index into `SPLITS` of each row.

    Raises:
        ManifestError: If a cell is empty or holds no name of a split.
    """
    cells = table.columns[column]
    split = _index(cells, list(SPLIT_NAMES))
    unknown = split < 0
    if unknown.any():
        row = int(unknown.argmax())
        cell = cells[row].as_py() or ""
        raise ManifestError(
            where=table.where(row, column),
            found=f"the split {cell!r}{nearest(cell.lower(), SPLIT_NAMES)} ({unknown.sum()} rows have none)",
            expected=f"one of {', '.join(SPLITS)} (or validation, valid, dev for val)",
            fix="correct the cell, or name another split column",
        )
    return np.array(list(SPLIT_NAMES.values()), np.int8)[split]


def split_by_content(sample_id: NDArray[np.int64], val_share: float, test_share: float) -> NDArray[np.int8]:
    """Index into `SPLITS` of each row, a function of its id alone.

    >>> ids = np.arange(10_000)
    >>> np.bincount(split_by_content(ids, 0.1, 0.2)).round(-2).tolist()
    [7000, 1000, 2000]
    """
    draw = uniform(0, 0, sample_id, "manifest split")[:, 0]
    split = np.zeros(len(draw), np.int8)
    split[draw < test_share + val_share] = 1
    split[draw < test_share] = 2
    return split


def domains_of(table: TextTable, column: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the domains, sorted, and the index of each row's.

    Raises:
        ManifestError: If a cell is empty or has blanks around it.
    """
    import pyarrow.compute as pc

    cells = table.columns[column]
    _refuse_blanks(table, column)
    row = first_true(cells.is_null())
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found="an empty cell",
            expected="the name of a domain",
            fix="fill it, or name another domain column",
        )
    domains = sorted(pc.unique(cells).to_pylist())
    return tuple(domains), _index(cells, domains)


def warn_of_leaks(table: TextTable, sample_id: NDArray[np.int64], split: NDArray[np.int8]) -> None:
    """Warn if rows with the same content are in several splits."""
    order = np.argsort(sample_id, kind="stable")
    ids, splits = sample_id[order], split[order]
    leaks = np.flatnonzero((ids[1:] == ids[:-1]) & (splits[1:] != splits[:-1]))
    if len(leaks):
        one, other = (int(table.line[order[leaks[0] + i]]) for i in (0, 1))
        here, there = (SPLITS[splits[leaks[0] + i]] for i in (0, 1))
        warnings.warn(
            f"{table.path}: rows {one} ({here}) and {other} ({there}) are the same sample; {len(leaks)} such "
            "pairs make results look too good",
            stacklevel=3,
        )


def _index(cells: Any, names: Sequence[str]) -> NDArray[np.int64]:
    """The position of each cell in `names`, -1 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(cells, value_set=pa.array(names, pa.large_string()))
    return _to_numpy(pc.fill_null(found, -1)).astype(np.int64)


def _to_numpy(array: Any) -> NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _refuse_blanks(table: TextTable, column: str) -> None:
    import pyarrow.compute as pc

    cells = table.columns[column]
    row = first_true(pc.not_equal(pc.utf8_trim_whitespace(cells), cells))
    if row is not None:
        raise ManifestError(
            where=table.where(row, column),
            found=f"{cells[row].as_py()!r}, with blanks around it",
            expected="a name without blanks around it",
            fix="remove the blanks",
        )
