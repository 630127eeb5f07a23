"""What one writer has written: a file of records, and an index with a checksum for every block of them.

    NAME.data     records, block after block; a block that was not filled leaves a gap
    NAME.index    a header of 64 bytes, then an entry for each block, see `entry_dtype`

Numbers are little-endian. A block's checksum is XXH3-64 of its records, seeded with the segment and the
block's number, so that neither blocks nor files can change places unnoticed. An entry is written after its
records have reached the disk; what has no entry does not exist.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import CacheError

FORMAT: Final = 1
"""Version of the two files."""
_MAGIC: Final = 0x4C445245434F5244
HEADER: Final = np.dtype(
    [
        ("magic", "<u8"),
        ("format", "<u4"),
        ("record", "<u4"),
        ("block", "<u4"),
        ("reserved", "<u4"),
        ("name", "<u8"),
        ("space", "<u8"),
        ("padding", "<u8", (2,)),
        ("check", "<u8"),
    ]
)
_BLOCK_BYTES: Final = 128 * 1024


def block_rows(record: int) -> int:
    """Records a block has: about 128 KiB, but 64 at least and 1,024 at most.

    >>> [block_rows(size) for size in (32, 1024, 2048, 100_000)]
    [1024, 128, 64, 64]
    """
    return min(max(_BLOCK_BYTES // max(record, 1), 64), 1024)


def entry_dtype(rows: int) -> np.dtype[Any]:
    """An entry of the index: the number of its block, what lies there, and checksums of both."""
    return np.dtype(
        [("number", "<u4"), ("count", "<u4"), ("payload", "<u8"), ("keys", "<u8", (rows,)), ("check", "<u8")]
    )


def make_header(name: int, space: int, record: int) -> NDArray[Any]:
    """The header of an index.

    Args:
        name: The segment's, as a number.
        space: What all its records depend on, hashed.
        record: Bytes of a record.
    """
    header = np.zeros(1, HEADER)
    header["magic"], header["format"], header["record"] = _MAGIC, FORMAT, record
    header["block"], header["name"], header["space"] = block_rows(record), name, space
    header["check"] = entry_checks(header, name)
    return header


def entry_checks(entries: NDArray[Any], name: int) -> NDArray[np.uint64]:
    """XXH3-64 of entries or headers, each without its last 8 bytes, which hold it.

    Args:
        entries: "entries".
        name: The segment's, which seeds the checksum.
    """
    raw, size = memoryview(entries.tobytes()), entries.itemsize
    found = (xxhash.xxh3_64_intdigest(raw[at : at + size - 8], name) for at in range(0, len(raw), size))
    return np.fromiter(found, np.uint64, len(entries))


def payload_seed(name: int, number: int) -> int:
    """Of the checksum of a block's records.

    Args:
        name: The segment's.
        number: The block's.
    """
    return (name + number) % 2**64


@dataclass(frozen=True)
class Damage:
    """A block that is not as it was written.

    Attributes:
        path: File.
        number: Of the block.
        keys: Of its records, where they can still be told.
        found: What is wrong.
    """

    path: Path
    number: int
    keys: NDArray[np.uint64]
    found: str

    def error(self) -> CacheError:
        """Says which file, block and records."""
        keys = ", ".join(f"{key:016x}" for key in self.keys[:4].tolist())
        more = f" and {len(self.keys) - 4} more" if len(self.keys) > 4 else ""
        return CacheError(
            where=f"{self.path}, block {self.number}",
            found=self.found + (f"; it holds the records {keys}{more}" if keys else ""),
            expected="what was written there",
            fix="cache: repair computes just these records again; if it comes back, look at the disk",
        )


class Segment:
    """The committed records of one writer, mapped.

    Args:
        index: Path of the index; the records lie beside it.
        space: What all records depend on, hashed.
        record: Bytes of a record.
        lenient: Keep what is damaged as `damage` instead of raising.

    Attributes:
        entries: The sound entries.
        damage: What is not sound; empty unless `lenient`.
        size: Bytes of the index when it was opened.

    Raises:
        CacheError: If a file is damaged, cut short, or of another version.
        OSError: If a file cannot be read.
    """

    def __init__(self, index: Path, space: int, record: int, lenient: bool = False) -> None:
        self.index, self.path = index, index.with_suffix(".data")
        self.rows_a_block, self.record, self.name = block_rows(record), record, int(index.stem, 16)
        self.damage: list[Damage] = []
        self._lenient = lenient
        self.size = os.path.getsize(index)
        self._check_header(space)
        self.entries = self._sound(self._read_entries())
        self._map()
        self.verified = np.zeros(len(self.entries), np.bool_)
        self._all_verified = not len(self.entries)

    def _check_header(self, space: int) -> None:
        raw = np.fromfile(self.index, np.uint8, HEADER.itemsize)
        if len(raw) < HEADER.itemsize:
            raise Damage(self.index, 0, _NO_KEYS, "a header that is cut short").error()
        found = raw.view(HEADER)[0]
        if int(found["magic"]) == int.from_bytes(_MAGIC.to_bytes(8, "little"), "big"):
            raise _other_version(self.index, "a file in the byte order of another machine", "little-endian")
        if int(found["magic"]) == _MAGIC and int(found["format"]) > FORMAT:
            raise _other_version(self.index, f"format {int(found['format'])}", f"format {FORMAT}")
        if found.tobytes() != make_header(self.name, space, self.record).tobytes():
            raise Damage(self.index, 0, _NO_KEYS, "the header of another file, or a damaged one").error()

    def _read_entries(self) -> NDArray[Any]:
        """Whole entries; what follows the last whole one was being written when its writer stopped."""
        entry = entry_dtype(self.rows_a_block)
        count = (self.size - HEADER.itemsize) // entry.itemsize
        return np.fromfile(self.index, entry, count, offset=HEADER.itemsize)

    def _sound(self, entries: NDArray[Any]) -> NDArray[Any]:
        size = os.path.getsize(self.path) if len(entries) else 0
        numbers = np.arange(len(entries))
        whole = (entry_checks(entries, self.name) == entries["check"]) & (entries["number"] == numbers)
        end = (numbers * self.rows_a_block + entries["count"]) * self.record
        for number in np.flatnonzero(~whole):
            self._report(Damage(self.index, int(number), _NO_KEYS, "a damaged entry of the index"))
        for number in np.flatnonzero(whole & (end > size)):
            keys = entries[number]["keys"][: entries[number]["count"]]
            self._report(Damage(self.path, int(number), keys, f"a file that ends after {size:,} bytes"))
        return entries[whole & (end <= size)]

    def _report(self, damage: Damage) -> None:
        if not self._lenient:
            raise damage.error()
        self.damage.append(damage)

    def _map(self) -> None:
        if not len(self.entries):
            self.data = np.empty((0, self.record), np.uint8)
            self._tensor = torch.from_numpy(self.data)
            return
        last = self.entries[-1]
        rows = int(last["number"]) * self.rows_a_block + int(last["count"])
        # "c": torch warns of arrays that cannot be written to. Nobody writes.
        self.data = np.asarray(np.memmap(self.path, np.uint8, "c", shape=(rows, self.record)))
        self._tensor = torch.from_numpy(self.data)

    @property
    def count(self) -> int:
        """Number of records."""
        return int(self.entries["count"].sum())

    def keep_verified(self, before: Segment) -> None:
        """Trust the blocks that were checked when the segment was shorter."""
        self.verified[: len(before.verified)] = before.verified
        self._all_verified = bool(self.verified.all())

    def keyed(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Keys of all records, and where each lies."""
        count = self.entries["count"].astype(np.int64)
        if (count == self.rows_a_block).all():
            there: Any = slice(None)
        else:
            there = np.arange(self.rows_a_block) < count[:, None]
        first = self.entries["number"].astype(np.int64) * self.rows_a_block
        rows = first[:, None] + np.arange(self.rows_a_block)
        return self.entries["keys"][there].ravel(), rows[there].ravel()

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Records, copied, each block checked the first time it is touched.

        Args:
            rows: As `keyed` gave them.

        Returns:
            uint8 "batch record".

        Raises:
            CacheError: If a block is not as it was written.
        """
        if not self._all_verified:
            self._verify(np.unique(rows // self.rows_a_block))
        return self._tensor.index_select(0, torch.from_numpy(rows))

    def _verify(self, numbers: NDArray[np.int64]) -> None:
        at = np.searchsorted(self.entries["number"], numbers)
        for place in at[~self.verified[at]].tolist():
            damage = self.check(place)
            if damage is not None:
                raise damage.error()
            self.verified[place] = True
        self._all_verified = bool(self.verified.all())

    def check(self, place: int) -> Damage | None:
        """Compare one block with its checksum.

        Args:
            place: Of its entry.
        """
        entry = self.entries[place]
        number, count = int(entry["number"]), int(entry["count"])
        first = number * self.rows_a_block
        summed = xxhash.xxh3_64_intdigest(
            self.data[first : first + count].data, payload_seed(self.name, number)
        )
        if summed == int(entry["payload"]):
            return None
        return Damage(self.path, number, entry["keys"][:count], "other bytes than were written")


_NO_KEYS: Final = np.empty(0, np.uint64)


def _other_version(where: Path, found: str, expected: str) -> CacheError:
    return CacheError(
        where=where,
        found=found,
        expected=expected,
        fix="use the version that wrote it, or remove the folder and let it be written again",
    )
