"""A signal ends or requeues a training, and costs it no step."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback


class SaveOnSignal(Callback):
    """On SIGTERM, SIGINT or SLURM's requeue signal, saves a checkpoint at the next safe point.

    Args:
        dirpath: Folder in which `last.ckpt` is written.

    Attributes:
        exit_code: That of the process: 143 after SIGTERM, 130 after SIGINT, else 0.
    """

    def __init__(self, dirpath: Path | str) -> None:
        self.dirpath = Path(dirpath)
        self.exit_code = 0
