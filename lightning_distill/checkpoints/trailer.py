"""What stands at the end of a checkpoint and says what must be before it."""

from __future__ import annotations

import struct
from typing import IO, Final, NamedTuple

import xxhash

from lightning_distill.errors import CheckpointError

FORMAT: Final = 1
"""Version of the trailer."""
_MAGIC: Final = b"LDckpt\r\n"
_FIELDS: Final = struct.Struct("<8sIqqQ16s")  # magic, format, step, epoch, length, hash of all before
_CHECK: Final = struct.Struct("<Q")  # XXH3-64 of the fields
SIZE: Final = _FIELDS.size + _CHECK.size
"""Bytes of a trailer."""
_END: Final = 22
"""Bytes of a zip archive's last record when it has no comment; the last two are the comment's length."""


class Header(NamedTuple):
    """What can be told of a checkpoint without loading it.

    Attributes:
        global_step: Optimizer steps taken.
        epoch: Counted from 0.
    """

    global_step: int
    epoch: int


class Trailer(NamedTuple):
    """The header, and what the file must be.

    Attributes:
        header: Of the checkpoint.
        length: Bytes before the trailer.
        digest: XXH3-128 of them.
    """

    header: Header
    length: int
    digest: bytes

    def packed(self) -> bytes:
        """As it stands in a file."""
        fields = _FIELDS.pack(_MAGIC, FORMAT, *self.header, self.length, self.digest)
        return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))


def read_trailer(file: IO[bytes], name: str) -> Trailer | None:
    """The trailer of an open file; None where the file is a whole zip archive without a comment.

    Args:
        file: Its place is moved.
        name: Of the file, for errors.

    Raises:
        CheckpointError: If the file is no such archive, or is cut short, or has another trailer.
        OSError: If it cannot be read.
    """
    size = file.seek(0, 2)
    if size == 0:
        raise damaged(name, "an empty file")
    file.seek(max(0, size - SIZE))
    end = file.read(SIZE)
    fields, check = end[: _FIELDS.size], end[_FIELDS.size :]
    if len(end) == SIZE and check == _CHECK.pack(xxhash.xxh3_64_intdigest(fields)):
        magic, number, step, epoch, length, digest = _FIELDS.unpack(fields)
        if magic == _MAGIC:
            return _known(Trailer(Header(step, epoch), length, digest), number, size, name)
    # A comment's length of 0 tells other programs' archives from ours with a damaged trailer.
    last = end[-_END:]
    if last.startswith(b"PK\5\6") and last.endswith(b"\0\0"):
        return None
    file.seek(0)
    if file.read(4) == b"PK\3\4":
        raise damaged(name, "an archive that is cut short or damaged at its end")
    raise damaged(name, "another kind of file, or one that is cut short")


def _known(trailer: Trailer, number: int, size: int, name: str) -> Trailer:
    if number != FORMAT:
        raise CheckpointError(
            where=name,
            found=f"format {number}",
            expected=f"format {FORMAT}",
            fix="use the version of lightning_distill that wrote it",
        )
    if trailer.length != size - SIZE:
        raise damaged(name, f"{size - SIZE:,} bytes where {trailer.length:,} were written")
    return trailer


def damaged(name: str, found: str) -> CheckpointError:
    """Says that a file is not what was written."""
    return CheckpointError(
        where=name,
        found=found,
        expected="a checkpoint as it was written",
        fix="use an older one, such as the .previous beside it; --resume auto finds it by itself",
    )


class SealedFile:
    """Takes what `torch.save` writes, hashes it on its way to a file, and ends it with a trailer.

    The last bytes are held back, so that the archive can be told of the comment that follows it.

    Args:
        file: Where to.
        header: For the trailer.

    Attributes:
        failure: The error of the disk; `torch.save` may raise another one in its place.
    """

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self.failure: OSError | None = None
        self._file, self._header = file, header
        self._last = b""
        self._hash, self._length = xxhash.xxh3_128(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Append.

        Raises:
            OSError: If the disk refuses.
        """
        view = memoryview(data).cast("B")
        if len(view) < _END:
            view = memoryview(self._last + bytes(view))
        else:
            self._put(self._last)
        self._put(view[:-_END])
        self._last = bytes(view[-_END:])
        return len(data)

    def flush(self) -> None:
        """Nothing to do before the end."""

    def seal(self) -> None:
        """Write what is held back, and the trailer.

        Raises:
            OSError: If the disk refuses.
        """
        if not (
            len(self._last) == _END and self._last.startswith(b"PK\5\6") and self._last.endswith(b"\0\0")
        ):
            raise AssertionError("torch.save has not ended its archive as expected")
        self._put(self._last[:-2] + struct.pack("<H", SIZE))
        self._file.write(Trailer(self._header, self._length, self._hash.digest()).packed())

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._length += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.failure = error
            raise
