"""Reading everything, and taking out what is not as it was written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_distill.errors import CacheError
from lightning_distill.storage.segment import Damage, Segment
from lightning_distill.storage.writer import SegmentWriter


@dataclass(frozen=True)
class Mended:
    """What `mend` found.

    Attributes:
        checked: Blocks that were read.
        damage: What was not as it was written; its records are gone and can be computed again.
        skipped: Segments that are still being written.
    """

    checked: int
    damage: tuple[str, ...]
    skipped: int


def mend(folder: Path, space: int, record: int, remove: bool = True) -> Mended:
    """Compare every block with its checksum, and keep only what is sound.

    Of a segment with damage the sound blocks are written into a new one, then the old one is removed. Only
    one process at a time mends a folder. The lock is the system's: it ends with the process that holds it.

    Args:
        folder: Of the segments.
        space: What all records depend on, hashed.
        record: Bytes of a record.
        remove: Whether to take the damage out, or only to look for it.

    Raises:
        CacheError: If another process is mending, or a segment is of a newer version.
        OSError: If the disk refuses.
    """
    checked, skipped, damage = 0, 0, list[str]()
    with _alone(folder):
        for index in sorted(folder.glob("*.index")):
            with index.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    skipped += 1
                    continue
                if not os.fstat(file.fileno()).st_size:
                    continue  # its writer has just begun, or was stopped before it had written anything
                found, blocks = _mend_one(index, space, record, remove)
                checked += blocks
                damage += found
    return Mended(checked, tuple(damage), skipped)


def _mend_one(index: Path, space: int, record: int, remove: bool) -> tuple[list[str], int]:
    try:
        segment = Segment(index, space, record, lenient=True)
    except CacheError as error:
        if error.expected.startswith(("format", "little")):
            raise
        if remove:
            _unlink(index)
        return [f"{error.where}: {error.found}"], 0
    found = [segment.check(place) for place in range(len(segment.entries))]
    broken: list[Damage] = segment.damage + [damage for damage in found if damage is not None]
    if broken and remove:
        writer = SegmentWriter(index.parent, space, record)
        for entry, damage in zip(segment.entries, found, strict=True):
            if damage is None:
                first, count = int(entry["number"]) * segment.rows_a_block, int(entry["count"])
                writer.add(entry["keys"][:count], segment.data[first : first + count])
        writer.close()
        _unlink(index)
    return [f"{damage.path}, block {damage.number}: {damage.found}" for damage in broken], len(found)


def _unlink(index: Path) -> None:
    index.unlink(missing_ok=True)
    index.with_suffix(".data").unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "mending.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CacheError(
                where=folder,
                found=f"another process that mends it: {file.read().strip() or 'unknown'}",
                expected="one at a time",
                fix="wait for it to end",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield
