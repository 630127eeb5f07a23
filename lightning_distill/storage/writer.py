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
import xxhash
from numpy.typing import NDArray

from lightning_distill.storage.segment import (
    block_rows,
    entry_checks,
    entry_dtype,
    make_header,
    payload_seed,
)

_BUFFER: Final = 4 << 20
"""Bytes written at once: the system then keeps files in large pages, which are faster to gather from."""
_COMMIT_AFTER: Final = 15.0
"""Seconds after which what was added is committed: so much work at most is lost with the power."""


class SegmentWriter:
    """Writes a segment of its own, so that any number of writers need not wait for each other.

    Records count once they are committed: after some
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
        self._keys = np.zeros(self._rows, np.uint64)
        self._filled, self._number = 0, 0
        self._summed = xxhash.xxh3_64(seed=payload_seed(self._name, 0))
        self._buffer, self._unsent = np.empty(_BUFFER, np.uint8), 0
        self._waiting = list[bytes]()
        self._broken = False
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
        if self._broken:
            raise OSError(f"{self.path} is given up after an earlier error")
        if self._data is None:
            self._open()
        assert self._data is not None
        rows, start = np.ascontiguousarray(rows), 0
        try:
            while start < len(keys):
                stop = min(start + self._rows - self._filled, len(keys))
                self._summed.update(rows[start:stop].data)
                self._keys[self._filled : self._filled + stop - start] = keys[start:stop]
                self._filled += stop - start
                start = stop
                if self._filled == self._rows:
                    self._waiting.append(self._entry())
            self._put(rows.reshape(-1))
        except OSError:
            self._give_up()
            raise
        if time.monotonic() - self._committed > _COMMIT_AFTER:
            self.commit()

    def _put(self, raw: NDArray[np.uint8]) -> None:
        while len(raw):
            some, raw = raw[: _BUFFER - self._unsent], raw[_BUFFER - self._unsent :]
            self._buffer[self._unsent : self._unsent + len(some)] = some
            self._unsent += len(some)
            if self._unsent == _BUFFER:
                self._send()

    def _send(self) -> None:
        assert self._data is not None
        _write_all(self._data, self._buffer[: self._unsent].data)
        self._unsent = 0

    def _give_up(self) -> None:
        """Nobody knows what of the last records reached the disk, so none of them counts."""
        self._broken, self._filled = True, 0
        self._waiting.clear()
        self._unsent = 0

    def _entry(self) -> bytes:
        """The entry of the block that ends here."""
        entry = np.zeros(1, entry_dtype(self._rows))
        entry["number"], entry["count"], entry["payload"] = (
            self._number,
            self._filled,
            self._summed.intdigest(),
        )
        entry["keys"][0, : self._filled] = self._keys[: self._filled]
        entry["check"] = entry_checks(entry, self._name)
        self._number, self._filled = self._number + 1, 0
        self._summed = xxhash.xxh3_64(seed=payload_seed(self._name, self._number))
        return entry.tobytes()

    def _open(self) -> None:
        data = self.path.with_suffix(".data")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._data = data.open("xb", buffering=0)
            self._index = self.path.open("xb", buffering=0)
            fcntl.flock(self._index, fcntl.LOCK_SH)  # the segment still grows; ends with the process
            header = make_header(self._name, self._space, self._record)
            _write_all(self._index, memoryview(header.tobytes()))
        except OSError:
            self._give_up()
            with contextlib.suppress(OSError):  # half a header would be damage
                self.path.unlink(missing_ok=True)
                data.unlink(missing_ok=True)
            raise

    def commit(self) -> None:
        """Let everything added so far count, also after a loss of power.

        Raises:
            OSError: If the disk refuses.
        """
        self._committed = time.monotonic()
        if self._data is None or self._index is None or self._broken:
            return
        try:
            self._send()
            if self._filled:
                self._waiting.append(self._entry())
                self._data.seek(self._number * self._rows * self._record)  # this block was not full
            if self._waiting:
                os.fdatasync(self._data.fileno())
        except OSError:
            self._give_up()
            raise
        if not self._waiting:
            return
        end = self._index.tell()
        try:
            _write_all(self._index, memoryview(b"".join(self._waiting)))
            os.fdatasync(self._index.fileno())
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
    while len(data):
        data = data[file.write(data) :]
