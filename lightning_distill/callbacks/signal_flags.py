"""What signals have asked a training for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lightning_distill.callbacks.requeue import requeue_signal

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_AGAIN: Final = b"\nSIGINT: saving at the next safe point; press Ctrl+C again to stop at once\n"


class Asked(NamedTuple):
    """What any of the processes has been asked for.

    Attributes:
        requeue: To be queued again.
        stop: Number of the signal that ends training; 0 for none.
    """

    requeue: bool
    stop: int


class SignalFlags:
    """Handlers that note SIGTERM, SIGINT and SLURM's requeue signal, and do nothing else.

    The second SIGINT raises KeyboardInterrupt.

    Attributes:
        stop: Number of the signal that ends training, as this process was asked; 0 for none.
        requeue: Whether this process was asked to be queued again.
    """

    def __init__(self) -> None:
        self.stop, self.requeue = 0, False
        self._interrupted = False
        self._before: dict[int, Any] = {}
        self._pid = 0

    def take_over(self, trainer: Trainer) -> None:
        """Replace the handlers, once Lightning has set its own: those save, or wait for others, at once."""
        if self._before:
            return
        if threading.current_thread() is not threading.main_thread():
            rank_zero_warn("training runs in a thread, where no signals come: SaveOnSignal does nothing")
            return
        self._pid = os.getpid()
        numbers = {signal.SIGTERM, signal.SIGINT, requeue_signal(trainer)}
        self._before = {n: signal.signal(n, self._note) for n in numbers if n is not None}

    def give_back(self) -> None:
        """The handlers that were there, unless somebody has replaced ours."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Only note it: a handler runs between any two instructions."""
        if os.getpid() != self._pid:
            return  # in a process forked from the one that trains
        if number not in (signal.SIGTERM, signal.SIGINT):
            self.requeue = True
            return
        self.stop = max(self.stop, number)  # SIGTERM is the larger
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            with contextlib.suppress(OSError):
                os.write(2, _AGAIN)

    def asked(self, trainer: Trainer) -> Asked:
        """What any process has been asked for; all must call it at the same time."""
        requeue, stop = largest(trainer, [float(self.requeue), float(self.stop)])
        return Asked(bool(requeue), int(stop))


def largest(trainer: Trainer, values: list[float]) -> list[float]:
    """The largest of each, over all processes."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return values
    found = torch.tensor(values, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    over_all: list[float] = found.tolist()
    return over_all
