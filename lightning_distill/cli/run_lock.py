"""One process at a time in the folder of a run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
from pathlib import Path
from typing import IO, Final

from lightning_distill.errors import ConfigError

NAME = ".lock"
"""Of the file; a run that was killed leaves it behind, and it no longer locks."""
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What some network disks say, which have no locks: there nobody is kept out."""


class RunLock:
    """Held from `take` to `release`, or until the process ends in whatever way.

    A lock of the system on the file, and not the file itself, keeps others out. It is one that forked workers
    do not inherit: they may outlive their run for seconds.

    Args:
        folder: Of the run; it must be there when the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Lock the folder.

        Raises:
            ConfigError: If another process has it, with its number and machine.
            OSError: If the folder cannot be written.
        """
        while self._file is None:
            file = self._path.open("a+", encoding="utf-8")
            try:
                self._try(file)
                if self._is(file):
                    self._file = file
            finally:
                if self._file is None:
                    file.close()
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "host": platform.node()}, self._file)
        self._file.flush()

    def check(self) -> None:
        """See that nobody has it.

        Raises:
            ConfigError: If another process has it.
        """
        with contextlib.suppress(OSError), self._path.open("r+", encoding="utf-8") as file:
            self._try(file)

    @property
    def held(self) -> bool:
        """Whether this object has it."""
        return self._file is not None

    def release(self) -> None:
        """Let others in, and leave no file behind."""
        if self._file is not None:
            # A full disk refuses once more what it has refused to hold.
            with contextlib.suppress(OSError), self._file as file:
                if self._is(file):
                    self._path.unlink()
            self._file = None

    def _try(self, file: IO[str]) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise self._taken(file) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _is(self, file: IO[str]) -> bool:
        """Whether this is the file that others would lock: the one who had it may have removed it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        return False

    def _taken(self, file: IO[str]) -> ConfigError:
        file.seek(0)
        try:
            owner = json.loads(file.read())
            who = f"process {owner['pid']} on {owner['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return ConfigError(
            where=self._path.parent,
            found=f"a run that {who} is at work on",
            expected="one process at a time in the folder of a run",
            fix="wait for it, end it, or name another folder with --run",
        )
