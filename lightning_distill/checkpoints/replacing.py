"""A file that is written beside an old one and takes its place in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from lightning_distill.writing.disk import sync

PREVIOUS: Final = ".previous"
"""Ends the name of the file that one has replaced."""
_TEMPORARY: Final = ".tmp-"
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file beside `path`, removed at the end of the block if it still stands.

    Its name cannot be guessed, and it has the rights of any new file. It is locked while this process lives.

    Args:
        path: What it is to replace.

    Yields:
        Its path, and the file.

    Raises:
        OSError: If the disk refuses.
    """
    temp = _beside(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temp, flags, 0o666), "w+b") as file:
        try:
            with contextlib.suppress(OSError):  # some network disks have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temp, file
        finally:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)


def replace(temp: Path, path: Path) -> None:
    """Let `temp` take the place of `path`, which stays as `path` + ".previous".

    At every moment one of the two names is a whole file.

    Args:
        temp: Written and synced, in the same folder.
        path: May be missing.

    Raises:
        OSError: If the disk refuses.
    """
    if path.is_file() and not path.is_symlink():
        _keep(path)
    os.replace(temp, path)
    sync(path.parent)


def _keep(path: Path) -> None:
    previous, link = path.with_name(path.name + PREVIOUS), _beside(path)
    try:
        try:
            os.link(path, link)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(path, previous)
            return
        os.replace(link, previous)
    finally:
        # A rename between two names of one file does nothing.
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that died have left half-written.

    Args:
        folder: Of checkpoints; may be missing.
    """
    for path in folder.glob(f".*{_TEMPORARY}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # refused while its writer lives
            path.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
