"""One checkpoint file: what `torch.save` writes, with a header at its end that says what must be in it.

The header is the comment of the zip archive that a checkpoint is, so that `torch.load` reads such a file
without this library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import torch
import xxhash
from torch import Tensor

from lightning_distill.checkpoints.not_a_number import refuse_nan
from lightning_distill.checkpoints.plain import plain
from lightning_distill.checkpoints.replacing import replace, sweep, temporary
from lightning_distill.checkpoints.trailer import Header, SealedFile, damaged, read_trailer
from lightning_distill.errors import CheckpointError, DiskError

__all__ = ["Header", "read_checkpoint", "read_header", "sweep", "verify", "write_checkpoint"]

_CHUNK: Final = 1 << 18
"""Bytes read at once: they are still in the processor's memory when they are hashed."""


def read_header(path: Path) -> Header | None:
    """The header of a checkpoint; None where the file has none, as one that another program has written.

    Raises:
        CheckpointError: If it is damaged.
    """
    with _reading(path), path.open("rb") as file:
        trailer = read_trailer(file, str(path))
    return None if trailer is None else trailer.header


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that at any moment `path` is the old file or the whole new one.

    It is written beside, waited for until the disk has it, and read back; then the old file becomes
    `path` + ".previous", and the new one takes its place. Values become plain, see `plain`, so that what is
    written can always be read.

    Args:
        checkpoint: As Lightning makes it. `global_step` and `epoch` go into the header.
        path: Folders on the way to it are made.

    Raises:
        CheckpointError: If something in it has no plain form.
        DiskError: If the disk refuses. The old file stays.
        NonFiniteError: If weights or optimizer states are NaN. The old file stays.
    """
    content = plain(dict(checkpoint))
    refuse_nan(content, path)
    header = Header(_number(content, "global_step"), _number(content, "epoch"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as (temp, file):
            _save(content, file, header)
            _read_back(temp, path)
            replace(temp, path)
    except OSError as error:
        _refuse_disk(error, path, content)


def _save(content: dict[str, Any], file: IO[bytes], header: Header) -> None:
    sealed = SealedFile(file, header)
    try:
        torch.save(content, sealed)  # type: ignore[arg-type]
    except Exception:
        if sealed.failure is not None:
            raise sealed.failure from None
        raise
    sealed.seal()
    file.flush()
    os.fsync(file.fileno())


def _read_back(temp: Path, path: Path) -> None:
    try:
        _verify(temp, path)
    except CheckpointError as error:
        raise OSError(errno.EIO, f"reading back what was written gave {error.found}") from error
    _load(temp, path, "cpu")


def read_checkpoint(path: Path, map_location: Callable[..., Any] | str | None = "cpu") -> dict[str, Any]:
    """A checkpoint whose content is what was written; nothing in it can run code.

    Tensors on the CPU are mapped from the file, not copied: change the file only by replacing it.

    Args:
        path: Of a file that `write_checkpoint` has written. One of another program, which has no trailer, is
            read unverified.
        map_location: As of `torch.load`.

    Raises:
        CheckpointError: If the file is missing, damaged, or something else than a checkpoint.
    """
    with _reading(path):
        _verify(path, path)
        return _load(path, path, map_location)


def verify(path: Path) -> None:
    """Compare the content of a file with its trailer, if it has one.

    Raises:
        CheckpointError: If it is missing, damaged, or something else than a checkpoint.
    """
    with _reading(path):
        _verify(path, path)


def _verify(path: Path, name: Path) -> None:
    with path.open("rb", buffering=0) as file:
        trailer = read_trailer(file, str(name))
        if trailer is None:
            return
        # Read, not mapped: a disk that fails is then an error, where a map of it would end the process.
        summed, buffer, left = xxhash.xxh3_128(), memoryview(bytearray(_CHUNK)), trailer.length
        file.seek(0)
        while left and (count := file.readinto(buffer[: min(left, _CHUNK)])):
            summed.update(buffer[:count])
            left -= count
    if summed.digest() != trailer.digest:
        raise damaged(str(name), "other content than was written")


def _load(path: Path, name: Path, map_location: Callable[..., Any] | str | None) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # torch's own words run over many lines, and tell how to load what may run code.
        raise CheckpointError(
            where=name,
            found=f"content that is refused or cannot be read ({type(error).__name__}: {_gist(error)})",
            expected="tensors and plain values, which can be read without running code",
            fix="use a checkpoint of this library, or ask whoever made it for one of plain values",
        ) from error
    if not isinstance(found, dict):
        raise damaged(str(name), f"a {type(found).__name__}, not the dict of a checkpoint")
    return found


def _gist(error: Exception) -> str:
    """What was refused, without advice.

    >>> _gist(ValueError("Load failed. WeightsUnpickler error: Unsupported global: GLOBAL os.system"))
    'Unsupported global: GLOBAL os.system'
    """
    return str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise CheckpointError(
            where=path,
            found="a folder",
            expected="the file of a checkpoint",
            fix="name the file; folders are checkpoints of split models, which their strategy reads",
        )
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            where=path,
            found=error.strerror or error,
            expected="a file that can be read",
            fix="check the path, its rights and the disk",
        ) from error


def _number(content: Mapping[str, Any], key: str) -> int:
    value = content.get(key)
    return value if isinstance(value, int) else -1


def _refuse_disk(error: OSError, path: Path, content: dict[str, Any]) -> NoReturn:
    needed = _bytes_in(content)
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free"
    except OSError:
        free = "the folder cannot be asked for its free space"
    raise DiskError(
        where=path,
        found=f"{error.strerror or error}; {free}",
        expected=f"a folder that takes a checkpoint of about {needed:,} bytes; what was there is whole",
        fix="make room or mend the rights, or name a folder on another disk",
    ) from error


def _bytes_in(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_bytes_in(inner) for inner in value.values())
    return sum(_bytes_in(inner) for inner in value) if isinstance(value, list | tuple) else 64
