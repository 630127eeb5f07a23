"""The samples of tar shards as a table, and where each of their members is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.data.content_source import PlacedTable, content_digest
from lightning_distill.data.index import Index, extended
from lightning_distill.data.shard_members import Member, ShardSample, scan
from lightning_distill.data.table_jsonl import read_object, text_of
from lightning_distill.data.table_source import CHECKSUM, TableLayout, index_table
from lightning_distill.errors import ManifestError, SampleError, nearest

LONGEST_TEXT: Final = 1 << 20
"""Bytes; a longer member is no text of a sample."""
KEY: Final = "__key__"
"""Column every shard has: the name of the sample."""
SHARD: Final = "__url__"
"""Column every shard has: the name of the shard."""

Read = Callable[[int, int, int], bytes]
"""Reads from a shard: its number, offset, size."""


@dataclass(frozen=True)
class Row:
    """One sample.

    Attributes:
        shard: Number of its shard.
        path: Of the shard.
        split: Name of the shard's split, empty where shards have none.
        sample: Its members.
    """

    shard: int
    path: Path
    split: str
    sample: ShardSample

    def __str__(self) -> str:
        return f"{self.path}, sample {self.sample.key!r}"

    def find(self, column: str) -> Member | None:
        """The first member with one of the extensions, separated by `;`."""
        names = column.lower().split(";")
        return next((self.sample.members[name] for name in names if name in self.sample.members), None)


def build_index(
    shards: Sequence[tuple[str, Path]], layout: TableLayout, paths: frozenset[str], read: Read
) -> Index:
    """Read the headers of all shards, and every member that is needed once.

    Args:
        shards: The split and path of each.
        layout: What the extensions mean.
        paths: Modalities that are kept as bytes.
        read: Reads from them.

    Raises:
        ManifestError: If a shard, or a text in it, is wrong.
        SampleError: If an image or a sound is empty.
    """
    import pyarrow as pa

    rows = [
        Row(number, path, split, sample)
        for number, (split, path) in enumerate(shards)
        for sample in scan(path)
    ]
    origin = f"{shards[0][1]}" + (f" and {len(shards) - 1} more shards" if len(shards) > 1 else "")
    if not rows:
        raise ManifestError(
            where=origin,
            found="no samples",
            expected="members such as 000017.jpg and 000017.cls",
            fix="write the shards again",
        )
    kept = {m: column for m, column in layout.modalities.items() if m in paths}
    found, there = read_cells(rows, layout, frozenset(kept.values()), read)
    refuse_lacking(rows, layout, there)
    columns = {column: pa.array(texts, pa.large_string()) for column, texts in found.items()}
    line = np.arange(1, len(rows) + 1)
    table = PlacedTable(origin, columns, line, lambda row: str(rows[row]))
    index = index_table(table, layout, paths, lambda table, column: None)
    cells = {KEY: pa.array([row.sample.key for row in rows], pa.large_string())}
    numbers = {"shard": np.array([row.shard for row in rows], np.int64)}
    for modality, column in kept.items():
        members = [row.find(column) or Member("", 0, 0) for row in rows]
        cells[f"name {modality}"] = pa.array([member.name for member in members], pa.large_string())
        numbers[f"offset {modality}"] = np.array([member.offset for member in members], np.int64)
        numbers[f"size {modality}"] = np.array([member.size for member in members], np.int64)
    return extended(index, cells, numbers)


def read_cells(
    rows: Sequence[Row], layout: TableLayout, kept: frozenset[str], read: Read
) -> tuple[dict[str, list[str | None]], frozenset[str]]:
    """The columns that must be there, and those of the others that are, each as text.

    Args:
        rows: At least one.
        layout: What the extensions mean.
        kept: Columns of which the digest stands for the content.
        read: Reads from the shards.

    Returns:
        Column -> texts, None where a sample lacks it; and all columns these samples have.

    Raises:
        ManifestError: If a text is wrong.
        SampleError: If an image or a sound is empty.
    """
    optional = [column for column in layout.optional if not column.endswith(CHECKSUM)]
    wanted = list(dict.fromkeys([*layout.required, *optional]))
    cells: dict[str, list[str | None]] = {column: [] for column in wanted}
    keys: set[str] = set()
    for row in rows:
        found: Mapping[str, Any] | None = None
        for column, texts in cells.items():
            if column in kept:
                texts.append(_digest(row, column, read))
                continue
            text, known = _own(row, column, column in layout.modalities.values(), read)
            if not known:
                found = _object(row, read) if found is None else found
                keys.update(found)
                text = _of_object(row, column, found)
            texts.append(text)
    there = {KEY, SHARD, *keys}.union(*(row.sample.members for row in rows))
    there |= {"split"} if rows[0].split else set()
    must = frozenset(layout.required)
    return {c: texts for c, texts in cells.items() if c in must or _is_there(c, there)}, frozenset(there)


def refuse_lacking(rows: Sequence[Row], layout: TableLayout, there: frozenset[str]) -> None:
    """Every column that must be there is, in some sample.

    Raises:
        ManifestError: If one is not.
    """
    for column in layout.required:
        if not _is_there(column, there):
            raise _lacking(rows, column, there)


def _is_there(column: str, there: Iterable[str]) -> bool:
    return not {column, *column.split(";"), *column.lower().split(";")}.isdisjoint(there)


def _own(row: Row, column: str, exact: bool, read: Read) -> tuple[str | None, bool]:
    """What the names of sample and shard, or a member of its own, say; and whether they say anything."""
    if column in (KEY, SHARD):
        return row.sample.key if column == KEY else row.path.name, True
    if column == "split" and row.split:
        return row.split, True
    member = row.find(column)
    if member is None:
        return None, False
    text = _text(row, member, read)
    return (text if exact else text.strip()) or None, True


def _of_object(row: Row, column: str, found: Mapping[str, Any]) -> str | None:
    name = next((name for name in column.split(";") if name in found), None)
    if name is None:
        return None
    text = text_of(found[name], f"{row}, member 'json', key {name!r}")
    _refuse_nul(row, name, text or "")
    return text or None


def _object(row: Row, read: Read) -> Mapping[str, Any]:
    member = row.sample.members.get("json")
    if member is None:
        return {}
    return read_object(_read_text(row, member, read), f"{row.path}, member {member.name!r}")


def _text(row: Row, member: Member, read: Read) -> str:
    data = _read_text(row, member, read)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(
            where=f"{row.path}, member {member.name!r}, byte {error.start}",
            found=f"the byte {data[error.start]:#04x}, which is no UTF-8 text",
            expected="UTF-8 text",
            fix="write the shard again with text in UTF-8",
        ) from error
    _refuse_nul(row, member.name, text)
    return text


def _read_text(row: Row, member: Member, read: Read) -> bytes:
    if member.size > LONGEST_TEXT:
        raise ManifestError(
            where=f"{row.path}, member {member.name!r}",
            found=f"{member.size} bytes",
            expected=f"a text of at most {LONGEST_TEXT} bytes",
            fix="name another extension, or shorten the text",
        )
    return read(row.shard, member.offset, member.size)


def _refuse_nul(row: Row, name: str, text: str) -> None:
    if "\0" in text:
        raise ManifestError(
            where=f"{row}, {name!r}", found="a NUL character", expected="text", fix="write the shard again"
        )


def _digest(row: Row, column: str, read: Read) -> str | None:
    member = row.find(column)
    if member is None:
        return None
    if not member.size:
        raise SampleError(
            where=f"{row.path}, member {member.name!r}",
            found="an empty member (0 bytes)",
            expected="an image or a sound",
            fix="write the shard again, without the member if the sample lacks it",
        )
    return content_digest(read(row.shard, member.offset, member.size))


def _lacking(rows: Sequence[Row], column: str, there: Iterable[str]) -> ManifestError:
    names = sorted(there)
    return ManifestError(
        where=f"{rows[0].path}" + (" and others" if rows[-1].shard else ""),
        found=f"no {column!r} in any of {len(rows)} samples, which have {', '.join(names[:20])}"
        + nearest(column, names),
        expected=f"members that end in .{column}, or that key in the member json",
        fix="name one of those",
    )
