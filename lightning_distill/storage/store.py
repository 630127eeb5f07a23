"""All segments of one folder as one table from key to record."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.storage.segment import Segment

_SEGMENT: Final = 40
"""Bits of a place that number the record in its segment."""
MISSING: Final = -1
"""Place of a key that is not there."""


class RecordStore:
    """Finds records by key, in whatever segments they lie.

    Args:
        folder: Of the segments; need not be there yet.
        space: What all records depend on, hashed.
        record: Bytes of a record.

    Raises:
        CacheError: If a segment is damaged or of another version.
    """

    def __init__(self, folder: Path, space: int, record: int) -> None:
        self.folder, self._space, self._record = folder, space, record
        self._segments: dict[str, Segment] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look for what writers have committed since.

        Raises:
            CacheError: If a segment is damaged or of another version.
        """
        for index in sorted(self.folder.glob("*.index")):
            try:
                size = index.stat().st_size
                old = self._segments.get(index.name)
                if size and (old is None or size != old.size):
                    segment = Segment(index, self._space, self._record)
                    if old is not None:
                        segment.keep_verified(old)
                    self._segments[index.name] = segment
            except FileNotFoundError:
                continue  # mended away, or its records are not there yet
        self._sorted: NDArray[np.uint64] | None = None
        self._only = next(iter(self._segments.values())) if len(self._segments) == 1 else None

    def __len__(self) -> int:
        return sum(segment.count for segment in self._segments.values())

    def locate(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where the records of these keys lie; `MISSING` where there is none.

        Args:
            keys: Any number of them.
        """
        if self._sorted is None:
            self._sort()
        assert self._sorted is not None
        found = np.full(len(keys), MISSING, np.int64)
        wanted = keys & ~self._low
        at = np.searchsorted(self._sorted, wanted)
        left = np.arange(len(keys))
        while len(left):
            # Nearly always one turn: a key that begins with the same bits may stand before the right one.
            left = left[at[left] < len(self._sorted)]
            there = self._sorted[at[left]]
            left, there = left[same := (there & ~self._low) == wanted[left]], there[same]
            number = (there & self._low).astype(np.int64)
            right = self._keys[number] == keys[left]
            found[left[right]] = self._places[number[right]]
            left = left[~right]
            at[left] += 1
        return found

    def _sort(self) -> None:
        """Sort the first bits of each key together with its number: much faster than to sort by an order."""
        pairs = [segment.keyed() for segment in self._segments.values()]
        self._keys = np.concatenate([keys for keys, _ in pairs]) if pairs else np.empty(0, np.uint64)
        places = [rows + (number << _SEGMENT) for number, (_, rows) in enumerate(pairs)]
        self._places = np.concatenate(places) if pairs else np.empty(0, np.int64)
        self._low = np.uint64((1 << len(self._keys).bit_length()) - 1)
        self._sorted = (self._keys & ~self._low) | np.arange(len(self._keys), dtype=np.uint64)
        self._sorted.sort()

    def take(self, places: NDArray[np.int64]) -> Tensor:
        """Records, copied.

        Args:
            places: As `locate` gave them, none missing.

        Returns:
            uint8 "batch record".

        Raises:
            CacheError: If one is not as it was written.
        """
        if self._only is not None:
            return self._only.take(places)
        numbers, rows = places >> _SEGMENT, places & ((1 << _SEGMENT) - 1)
        segments = list(self._segments.values())
        taken = torch.empty(len(places), self._record, dtype=torch.uint8)
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            taken[torch.from_numpy(mine)] = segments[number].take(rows[mine])
        return taken
