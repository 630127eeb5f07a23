"""Appending records: the bytes first, what makes them count after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.storage.segment import (
    block_rows,
    entry_checks,
    entry_dtype,
    make_header,
    payload_check,
)

_COMMIT_AFTER: Final = 15.0
"""Seconds after which what was added is committed: so much work at most is lost with the power."""


class SegmentWriter:
    """Writes a segment of its own, so that any number of writers need not wait for each other.

    Nothing is on disk before the first block is full. Records count once they are committed: after some
    seconds, by `commit`, or by `close`. An error of the disk leaves no record that was not written whole.

    Args:
        folder: Of the segments.
        space: What all records depend on, hashed.
        record: Bytes of a record.
    """

    def __init__(self, folder: Path, space: int, record: int) -> None:
        self._folder, self._space, self._record = folder, space, record
        self._rows = block_rows(record)
        self._name = secrets.randbits(64)
        self._buffer = np.empty((self._rows, record), np.uint8)
        self._keys = np.zeros(self._rows, np.uint64)
        self._filled, self._number = 0, 0
        self._waiting: list[bytes] = []
        self._committed = time.monotonic()
        self._data: IO[bytes] | None = None
        self._index: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        """Of the index."""
        return self._folder / f"{self._name:016x}.index"

    def add(self, keys: NDArray[np.uint64], rows: NDArray[np.uint8]) -> None:
        """Append records.

        Args:
            keys: "batch".
            rows: uint8 "batch record".

        Raises:
            OSError: If the disk refuses; what was committed before stays.
        """
        start = 0
        while start < len(keys):
            if not self._filled and len(keys) - start >= self._rows:
                stop = start + self._rows
                self._write(keys[start:stop], np.ascontiguousarray(rows[start:stop]))
            else:
                stop = min(start + self._rows - self._filled, len(keys))
                end = self._filled + stop - start
                self._buffer[self._filled : end], self._keys[self._filled : end] = (
                    rows[start:stop],
                    keys[start:stop],
                )
                self._filled = end
                if end == self._rows:
                    self._flush()
            start = stop
        if time.monotonic() - self._committed > _COMMIT_AFTER:
            self.commit()

    def _flush(self) -> None:
        if self._filled:
            keys, rows = self._keys[: self._filled], self._buffer[: self._filled]
            self._filled = 0
            self._write(keys, rows)

    def _write(self, keys: NDArray[np.uint64], rows: NDArray[np.uint8]) -> None:
        if self._data is None:
            self._open()
        assert self._data is not None
        if self._data.tell() != self._number * self._rows * self._record:
            self._data.seek(self._number * self._rows * self._record)  # the block before was not full
        _write_all(self._data, rows.data.cast("B"))
        entry = np.zeros(1, entry_dtype(self._rows))
        entry["number"], entry["count"], entry["keys"][0, : len(keys)] = self._number, len(keys), keys
        entry["payload"] = payload_check(rows.data, self._name, self._number)
        entry["check"] = entry_checks(entry, self._name)
        self._waiting.append(entry.tobytes())
        self._number += 1

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._data = self.path.with_suffix(".data").open("xb", buffering=0)
        self._index = self.path.open("xb", buffering=0)
        fcntl.flock(self._index, fcntl.LOCK_SH)  # says that the segment still grows; ends with the process
        _write_all(self._index, memoryview(make_header(self._name, self._space, self._record).tobytes()))

    def commit(self) -> None:
        """Let everything added so far count, also after a loss of power.

        Raises:
            OSError: If the disk refuses.
        """
        self._flush()
        self._committed = time.monotonic()
        if not self._waiting:
            return
        assert self._data is not None
        assert self._index is not None
        os.fsync(self._data.fileno())
        end = self._index.tell()
        try:
            _write_all(self._index, memoryview(b"".join(self._waiting)))
            os.fsync(self._index.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._index.truncate(end)
                self._index.seek(end)
            raise
        self._waiting.clear()

    def close(self) -> None:
        """Commit, and let go of the files.

        Raises:
            OSError: If the disk refuses.
        """
        try:
            self.commit()
        finally:
            for file in (self._data, self._index):
                if file is not None:
                    file.close()


def _write_all(file: IO[bytes], data: memoryview) -> None:
    """A disk that is nearly full takes a part first, and refuses only the next write."""
    while data:
        data = data[file.write(data) :]
