"""What else a table says of a row: content id, domain, weight; and which rows leak between splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from os.path import normpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.cells import index_in, refuse_blanks, refuse_empty, to_numpy
from lightning_distill.data.source import SPLITS
from lightning_distill.data.tables import TextTable, first_true
from lightning_distill.data.targets import numbers
from lightning_distill.errors import ManifestError


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
    return _hashes(pc.binary_join_element_wise(*parts, pa.scalar("\0", pa.large_string())))


def given_ids(table: TextTable, column: str) -> NDArray[np.int64]:
    """An id a row from the name a column gives it, hashed as in `content_ids`.

    Raises:
        ManifestError: If a cell is empty, or two rows have the same name.
    """
    refuse_empty(table, column, "the name of the sample")
    ids = _hashes(table.columns[column])
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if len(again):
        one, other = int(order[again[0]]), int(order[again[0] + 1])
        raise ManifestError(
            where=table.where(other, column),
            found=f"the name {table.columns[column][other].as_py()!r} of row {table.line[one]} again"
            f" ({len(again)} names are not new)",
            expected="another name for every sample",
            fix="rename or drop one of them, or name another id column",
        )
    return ids


def _hashes(keys: Any) -> NDArray[np.int64]:
    digests = bytearray()
    for start in range(0, len(keys), 1 << 16):
        for key in keys[start : start + (1 << 16)].to_pylist():
            digests += hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.frombuffer(digests, "<i8").astype(np.int64)


def domains_of(table: TextTable, column: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the domains, sorted, and the index of each row's.

    Raises:
        ManifestError: If a cell is empty or has blanks around it.
    """
    import pyarrow.compute as pc

    refuse_blanks(table, column)
    refuse_empty(table, column, "the name of a domain")
    domains = sorted(pc.unique(table.columns[column]).to_pylist())
    return tuple(domains), index_in(table.columns[column], domains)


def weights_of(table: TextTable, column: str) -> NDArray[np.float32]:
    """The weight of each row, float32; 1 where the cell is empty.

    Raises:
        ManifestError: If a cell is no number of 0 or more.
    """
    weights = numbers(table, column)
    if (weights < 0).any():
        row = int((weights < 0).argmax())
        raise ManifestError(
            where=table.where(row, column),
            found=table.columns[column][row].as_py(),
            expected="a weight of 0 or more",
            fix="correct it; 0 leaves the row out of the task's loss",
        )
    return np.where(np.isnan(weights), np.float32(1), weights)


def leaks(
    table: TextTable, sample_id: NDArray[np.int64], split: NDArray[np.int8], paths: Mapping[str, str]
) -> list[str]:
    """Say which samples, and which files, are in several splits.

    Args:
        table: The table.
        sample_id: Content id of each row.
        split: Index into `SPLITS` of each row.
        paths: modality -> column of paths.
    """
    found = [_leak(table, sample_id, split, "are the same sample")]
    for modality, column in paths.items():
        cells = _normal(table.columns[column])
        there = to_numpy(cells.is_valid())
        codes = to_numpy(cells.dictionary_encode().indices.fill_null(-1)).astype(np.int64)
        codes = np.where(there, codes, -1 - np.arange(len(codes)))
        found.append(_leak(table, codes, split, f"have the same {modality}"))
    return list(filter(None, found))


def _normal(paths: Any) -> Any:
    """Paths without `./`, `..` and `//`, so that one file has one name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    odd = pc.match_substring_regex(paths, r"(^|/)\.{0,2}/")
    if first_true(odd) is None:
        return paths
    return pa.array([None if p is None else normpath(p) for p in paths.to_pylist()], pa.large_string())


def _leak(table: TextTable, ids: NDArray[np.int64], split: NDArray[np.int8], what: str) -> str:
    order = np.lexsort((split, ids))
    same, splits = ids[order], split[order]
    places = np.flatnonzero((same[1:] == same[:-1]) & (splits[1:] != splits[:-1]))
    if not len(places):
        return ""
    one, other = (int(order[places[0] + i]) for i in (0, 1))
    return (
        f"{table.path}: rows {table.line[one]} ({SPLITS[split[one]]}) and {table.line[other]} "
        f"({SPLITS[split[other]]}) {what}; {len(places)} such cases make results look too good"
    )
