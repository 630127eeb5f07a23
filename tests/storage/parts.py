"""Records for tests: what a key holds follows from the key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_distill.storage import RecordStore, SegmentWriter

SPACE, RECORD = 77, 2048


def keys_of(*numbers: int) -> NDArray[np.uint64]:
    return np.array(numbers, np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def rows_of(keys: NDArray[np.uint64], record: int = RECORD) -> NDArray[np.uint8]:
    """Eight bytes of the key again and again."""
    return np.tile(keys[:, None].view(np.uint8), (1, record // 8))


def write(folder: Path, first: int, last: int, batch: int = 50, record: int = RECORD) -> SegmentWriter:
    writer = SegmentWriter(folder, SPACE, record)
    for start in range(first, last, batch):
        keys = keys_of(*range(start, min(start + batch, last)))
        writer.add(keys, rows_of(keys, record))
    writer.close()
    return writer


def opened(folder: Path, record: int = RECORD) -> RecordStore:
    return RecordStore(folder, SPACE, record)


def all_right(store: RecordStore, first: int, last: int, record: int = RECORD) -> bool:
    keys = keys_of(*range(first, last))
    places = store.locate(keys)
    return bool((places >= 0).all() and (store.take(places).numpy() == rows_of(keys, record)).all())
