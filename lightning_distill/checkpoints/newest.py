"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lightning_distill.checkpoints.file import read_header
from lightning_distill.errors import CheckpointError


class Newest(NamedTuple):
    """The newest checkpoint of a folder that is as it was written.

    Attributes:
        path: None where there is none.
        damaged: What newer ones, if any, have wrong.
    """

    path: Path | None
    damaged: tuple[CheckpointError, ...] = ()


def newest_good(folder: Path) -> Newest:
    """Look through a folder of checkpoints, by the steps they say, not by their times.

    Args:
        folder: May be missing.
    """
    found = sorted(folder.glob("*.ckpt"), key=lambda p: (read_header(p) or (0,))[0], reverse=True)
    last = folder / "last.ckpt"
    return Newest(last if last in found else next(iter(found), None))
