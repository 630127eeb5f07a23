"""Where the processes of a run leave word for each other, outside of their collectives."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Final, NamedTuple

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lightning_distill.errors import DistillError, RankError

_PATIENCE: Final = timedelta(seconds=5)


class Cause(NamedTuple):
    """What ends a distributed run, in the words of a `DistillError`.

    Attributes:
        rank: That has failed.
        found: What of.
        where: In which place.
        expected: Instead.
        fix: What to do about it.
    """

    rank: int
    found: str
    where: str = ""
    expected: str = "all processes to train to the end"
    fix: str = "see what that rank has printed; then fit --resume auto goes on"

    @classmethod
    def of(cls, rank: int, error: Exception) -> Cause:
        """What a process has failed of."""
        kind = type(error).__name__
        if isinstance(error, DistillError):
            return cls(rank, f"{kind}, {error.found}", error.where, error.expected, error.fix)
        return cls(rank, f"{kind}: {error}")

    @classmethod
    def end(cls, rank: int, sign: str) -> Cause:
        """A process that has ended without a word."""
        fix = "look for what ended it, such as a lack of memory; then fit --resume auto goes on"
        return cls(rank, f"its end: {sign}", fix=fix)

    def error(self) -> RankError:
        """As it is told on other processes."""
        where = f"rank {self.rank}" + (f", {self.where}" if self.where else "")
        return RankError(where=where, found=self.found, expected=self.expected, fix=self.fix)


class RankBoard:
    """A connection of its own to the store by which the processes have met.

    The main thread may wait in a collective for as long as it likes: this connection waits for nothing.

    Args:
        rank: Of this process.
        store: Open to all processes.
    """

    def __init__(self, rank: int, store: Store) -> None:
        # A store outlives a training: each has its own page, and all processes train equally often.
        number = store.add(f"lightning_distill/trainings/{rank}", 1)
        self.rank, self._store = rank, PrefixStore(f"lightning_distill/{number}", store)

    @classmethod
    def reach(cls) -> RankBoard | None:
        """The board of this run; None where its processes have met in another way than by a port."""
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
        if not host or not port.isdigit():
            return None
        try:
            # A client of a store retries and complains at length where there is none.
            socket.create_connection((host, int(port)), timeout=2).close()
            store = TCPStore(host, int(port), None, False, _PATIENCE, wait_for_workers=False)
        except (OSError, RuntimeError):
            return None
        return cls(dist.get_rank(), store)

    def tell(self, cause: Cause) -> bool:
        """Say what ends the run, unless another process was first; tells whether this was the first."""
        text = json.dumps(cause)
        return self._store.compare_set("cause", "", text).decode() == text

    def cause(self) -> Cause | None:
        """What ends the run, if something does."""
        return Cause(*json.loads(self._store.get("cause"))) if self._store.check(["cause"]) else None

    def beat(self) -> None:
        """Give a sign of life."""
        self._store.add(f"beats/{self.rank}", 1)

    def beats(self, rank: int) -> int:
        """Signs of life of a process so far."""
        return self._store.add(f"beats/{rank}", 0)

    def ask_where(self) -> None:
        """Ask every process where it stands."""
        self._store.set("asked", "")

    def asked_where(self) -> bool:
        """Whether one has asked."""
        return self._store.check(["asked"])

    def stand(self, where: str) -> None:
        """Answer."""
        self._store.set(f"stands/{self.rank}", where)

    def stands(self) -> dict[int, str]:
        """The answers that have come from other processes, by rank."""
        found = {}
        for rank in range(dist.get_world_size()):
            if rank != self.rank and self._store.check([f"stands/{rank}"]):
                found[rank] = self._store.get(f"stands/{rank}").decode()
        return found

    def known_cause(self) -> Cause | None:
        """As `cause`; None too where the store has gone with the process that held it."""
        with suppress(RuntimeError):
            return self.cause()
        return None
