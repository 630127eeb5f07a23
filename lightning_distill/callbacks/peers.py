"""Processes on this machine, of which the system tells when they end."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from pathlib import Path


def machine() -> str | None:
    """What processes have in common that can see each other; None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


class Peers:
    """Some processes of this machine. On Linux only; elsewhere it holds none.

    Unlike a sign of life, what the system tells is never late and never wrong.

    Args:
        pids: Rank -> process.
    """

    def __init__(self, pids: Mapping[int, int]) -> None:
        self._files: dict[int, int] = {}
        self._gone: set[int] = set()
        for rank, pid in pids.items():
            try:
                self._files[rank] = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone.add(rank)
            except (AttributeError, OSError):  # not Linux, or one from before 2019
                break

    @property
    def ranks(self) -> set[int]:
        """Those it holds."""
        return self._gone | self._files.keys()

    def gone(self) -> set[int]:
        """Those that have ended."""
        waiting = select.poll() if self._files else None
        if waiting is not None:
            for file in self._files.values():
                waiting.register(file, select.POLLIN)
            ended = {file for file, _ in waiting.poll(0)}
            self._gone |= {rank for rank, file in self._files.items() if file in ended}
        return set(self._gone)

    def close(self) -> None:
        """Let go of them."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
