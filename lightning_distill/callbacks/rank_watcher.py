"""A thread that looks after the other processes while the main thread trains."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Final

import torch

from lightning_distill.callbacks.peers import Peers
from lightning_distill.callbacks.rank_board import Cause, RankBoard
from lightning_distill.errors import RankError
from lightning_distill.security.secrets import redacted

LOOK: Final = 0.5
"""Seconds between two looks at the others."""
_BEAT: Final = 5.0
"""Seconds between two signs of life, for processes on other machines."""
_SILENCE: Final = 15.0
"""Seconds without a sign after which a process on another machine counts as gone."""
_GRACE: Final = 10.0
"""Seconds in which the main thread may end by itself once the run is lost."""


class RankWatcher:
    """Learns why a run is lost, and ends this process if its main thread does not.

    Args:
        board: Of the run.
        peers: Processes that the system tells of.
        far: Ranks of processes that must give signs of life.
    """

    def __init__(self, board: RankBoard, peers: Peers, far: Collection[int]) -> None:
        self.board, self.peers = board, peers
        self._beats = _Beats(board, far)
        self._cause: Cause | None = None
        self._answered = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="rank-watch")
        self._thread.start()

    def stop(self) -> None:
        """Wait for the thread, and let go of the peers."""
        self._stopped.set()
        self._thread.join()
        self.peers.close()

    def cause(self) -> Cause | None:
        """Why the run is lost, as far as it is known by now."""
        return self._cause or self.board.known_cause() or self._gone()

    def _watch(self) -> None:
        heard = time.monotonic()
        while self._cause is None and not self._stopped.wait(LOOK):
            try:
                self._cause = self._look()
                heard = time.monotonic()
            except RuntimeError:  # the store does not answer
                lost = Cause.end(0, "it is not to be reached any more")
                self._cause = self._gone() or (lost if time.monotonic() - heard > _SILENCE else None)
        if self._cause is not None and not self._stopped.wait(_GRACE):
            if 0 in (self.board.rank, self._cause.rank):
                print(f"error: {redacted(str(self._cause.error()))}", file=sys.stderr, flush=True)
            os._exit(RankError.exit_code)

    def _look(self) -> Cause | None:
        if not self._answered and self.board.asked_where():
            self.board.stand(_where_main_stands())
            self._answered = True
        told = self.board.cause()
        if told is not None:
            return told
        found = self._gone() or self._beats.missing()
        if found is not None:
            self.board.tell(found)
        return found

    def _gone(self) -> Cause | None:
        gone = self.peers.gone()
        return Cause.end(min(gone), "it was killed, or has crashed") if gone else None


class _Beats:
    """Signs of life of processes on other machines.

    Args:
        board: Where they are given.
        ranks: Whose.
    """

    def __init__(self, board: RankBoard, ranks: Collection[int]) -> None:
        now = time.monotonic()
        self._board, self._due, self._last = board, now, dict.fromkeys(ranks, (0, now))

    def missing(self) -> Cause | None:
        """Give one where it is time, and tell whose have stopped."""
        now = time.monotonic()
        if not self._last or now < self._due:
            return None
        self._due = now + _BEAT
        self._board.beat()
        for rank, (count, since) in self._last.items():
            found = self._board.beats(rank)
            if found != count:
                self._last[rank] = found, now
            elif now - since > _SILENCE:
                return Cause.end(rank, f"no sign of life for {now - since:.0f} seconds")
        return None


def _where_main_stands() -> str:
    """File, line and function outside torch; in front of it `torch` where it waits inside."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = [
        (Path(f.filename), f"{f.filename}:{f.lineno} in {f.name}") for f in traceback.extract_stack(frame)
    ]
    library = Path(torch.__file__).parent
    outside = [text for path, text in stack if not path.is_relative_to(library)]
    inside = bool(stack) and stack[-1][0].is_relative_to(library)
    return ("torch, called at " if inside else "") + (outside[-1] if outside else "an unknown place")
