"""What is written outlasts a loss of power, and a disk that refuses is named."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lightning_distill.errors import DiskError

_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What some network disks say when a folder is to be synced."""


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder.

    Raises:
        OSError: If the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


@contextmanager
def refusals_named(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an error of the system inside the block into one that says where, why and how much room there is.

    Args:
        path: What is being written.
        needed: Bytes it takes, where known.

    Raises:
        DiskError: In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, needed) from error


def disk_error(path: Path, error: OSError | str, needed: int | None = None) -> DiskError:
    """The error to raise where `path` could not be written.

    Args:
        path: What was being written.
        error: What the system said.
        needed: Bytes it takes, where known.
    """
    free = _free(path)
    full = "No space" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return DiskError(
        where=path,
        found=str(error) if free is None else f"{error}; {free:,} bytes are free",
        expected="a disk that takes it" if needed is None else f"a disk that takes {needed:,} bytes",
        fix="make room, or name a folder on another disk"
        if full
        else "check the folder's rights and the disk",
    )


def _free(path: Path) -> int | None:
    """Bytes that are free where the path is to be; None where nobody can tell."""
    try:
        return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
    except OSError:
        return None
