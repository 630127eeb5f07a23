"""The processes of a distributed run watch each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_distill.callbacks.peers import Peers, machine
from lightning_distill.callbacks.rank_board import Cause, RankBoard
from lightning_distill.callbacks.rank_comparison import check_same, code, versions
from lightning_distill.callbacks.rank_watcher import LOOK, RankWatcher
from lightning_distill.errors import DistillError, RankError
from lightning_distill.ranks import alone, gathered

_ECHO: Final = 1.0
"""Seconds in which the cause of an error that may be only its echo becomes known."""

_TIMEOUT: Final = re.compile("timed out|timeout", re.IGNORECASE)


class RankWatch(Callback):
    """Compares at the start what the processes see, and ends all of them soon after one has failed.

    Before the first step all processes compare what they are given, data, code, versions and the number of
    batches. From then on a thread of each looks for word from the others, so that all learn why a run is lost
    even while their main threads wait in a collective. A main thread that has not ended ten seconds later is
    ended, with exit code 6. Steps take no longer. With one process nothing happens.

    A process that hangs looks like one with a slow step: only the time limit of the process group ends it
    (`DDPStrategy(timeout=...)`), and then the others tell where it stands. On other machines a process that
    keeps Python's lock for 15 seconds counts as gone. Where the processes have met without `MASTER_ADDR` and
    `MASTER_PORT`, there is the comparison only.

    Args:
        same: Name -> what must be the same on every process, as text.

    Attributes:
        package: Folder of the source files that must be the same: this library's.
    """

    package = Path(__file__).parents[1]

    def __init__(self, same: Mapping[str, str]) -> None:
        self.same = same
        self._watcher: RankWatcher | None = None
        self._failure: RankError | None = None

    def failure(self) -> RankError | None:
        """What another process has failed of, if one has."""
        return self._failure

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, and begin to watch.

        Raises:
            RankError: If a process sees another run than the first.
        """
        self._failure = None
        if alone():
            return
        board = RankBoard.reach()
        mine = {"machine": machine(), "pid": os.getpid(), "sees": self._seen(trainer)}
        told = [json.loads(text) for text in gathered(json.dumps(mine), trainer.strategy.root_device)]
        if board is not None:
            self._watcher = _watcher(board, told)
            _take_over(trainer)
        check_same([process["sees"] for process in told])

    def _seen(self, trainer: Trainer) -> dict[str, str]:
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        data = str(getattr(source, "fingerprint", ""))
        return {**self.same, "data": data, "code": code(self.package), "versions": versions()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare how many batches an epoch has.

        Raises:
            RankError: If a process has more of them than others, for which it would wait.
        """
        if not alone():
            counts = gathered(str(trainer.num_training_batches), trainer.strategy.root_device)
            check_same([{"number of training batches": count} for count in counts])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave together: one that ends before the others looks like one that is killed."""
        if self._watcher is not None:
            trainer.strategy.barrier()
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others what happened, or find out what has happened to them."""
        # What is no `Exception` was asked for, by a signal; a `RankError` all have found.
        if not alone() and isinstance(exception, Exception) and not isinstance(exception, RankError):
            board = self._watcher.board if self._watcher is not None else RankBoard.reach()
            if board is not None:
                self._tell(board, exception)
        self._stop()

    def _tell(self, board: RankBoard, error: Exception) -> None:
        cause = None if isinstance(error, DistillError) else self._behind(board, error)
        if cause is not None:
            self._failure = cause.error()
        with suppress(RuntimeError):  # it may have gone with the process that held it
            if board.tell(cause or Cause.of(board.rank, error)):
                time.sleep(2 * LOOK)  # what follows wakes or ends the others: let them look before

    def _behind(self, board: RankBoard, error: Exception) -> Cause | None:
        """What has happened to another process, of which this error may be an echo."""
        until = time.monotonic() + _ECHO
        while time.monotonic() < until:
            found = board.known_cause() if self._watcher is None else self._watcher.cause()
            if found is not None:
                return None if found.rank == board.rank else found
            time.sleep(0.05)
        return _late(board) if _TIMEOUT.search(str(error)) else None

    def _stop(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None


def _watcher(board: RankBoard, told: list[dict[str, Any]]) -> RankWatcher:
    here = told[board.rank]["machine"]
    others = {rank: process for rank, process in enumerate(told) if rank != board.rank}
    near = {rank: p["pid"] for rank, p in others.items() if p["machine"] == here is not None}
    peers = Peers(near)
    # The first process minds those on other machines, and they mind the first.
    far = [rank for rank in others if rank not in peers.ranks and 0 in (rank, board.rank)]
    return RankWatcher(board, peers, far)


def _late(board: RankBoard) -> Cause | None:
    """Who has not come to a collective, by where the main threads stand."""
    stands: dict[int, str] = {}
    with suppress(RuntimeError):
        board.ask_where()
        time.sleep(3 * LOOK)
        stands = board.stands()
    late = {rank: at for rank, at in stands.items() if not at.startswith("torch")} or stands
    if not late:
        return None
    rank = min(late)
    more = f" ({len(late) - 1} more have not come)" if len(late) > 1 else ""
    found = f"no answer within the time limit; its main thread is in {late[rank]}{more}"
    return Cause(rank, found, fix="see why it waits there; DDPStrategy(timeout=...) sets the limit")


def _take_over(trainer: Trainer) -> None:
    """Keep Lightning's own watch from killing this process, within seconds and without a word of the cause.

    It ends by itself when the list of processes that it looks through is empty.
    """
    launcher: Any = trainer.strategy.launcher
    processes = getattr(launcher, "procs", None)
    if processes and all(isinstance(process, subprocess.Popen) for process in processes):
        launcher.procs = list(processes)  # it still ends them at Ctrl+C
        processes.clear()
