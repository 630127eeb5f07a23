"""Workers that read data leave it to their process what a signal means.

Schedulers, and Ctrl+C, signal all processes of a run. A worker that died of it would take the training with
it, before that could save and leave.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process
from typing import Final

_MEANT_FOR_TRAINING: Final = ("SIGINT", "SIGUSR1", "SIGUSR2")
"""Each may ask a training to save."""


def outlive_signals() -> None:
    """In a worker: end at SIGTERM only if the parent sends it."""
    for name in _MEANT_FOR_TRAINING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        # Of a blocked signal it can be told who has sent it; a handler of Python's is not told.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = parent_process()  # not the parent of the system: that may be a server which forks workers
        pid = os.getppid() if parent is None or parent.pid is None else parent.pid
        threading.Thread(target=_wait_for_parent, args=(pid,), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
