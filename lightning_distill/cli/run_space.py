"""Whether a folder takes checkpoints, found out before the first step and not after the first epoch."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.writing.disk import disk_error, refusals_named, sync

if TYPE_CHECKING:
    from torch import nn

_CHECKPOINTS: Final = 5
"""That a run has at most by itself: the best, the last, what each has replaced, and one being written."""


def try_writing(folder: Path) -> None:
    """Do with a small file what is done with every checkpoint.

    Args:
        folder: Made where needed, and then removed again.

    Raises:
        DiskError: If it cannot be written, waited for, renamed or removed.
    """
    made = not folder.exists()
    first, second = folder / f".probe-{os.getpid()}", folder / f".probed-{os.getpid()}"
    with refusals_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            first.write_bytes(b"probe")
            sync(first)
            os.replace(first, second)
            sync(folder)
        finally:
            for path in (first, second):
                path.unlink(missing_ok=True)
        if made:
            folder.rmdir()


def try_appending(file: Path) -> None:
    """See that a file that is there can be added to.

    Raises:
        DiskError: If it cannot.
    """
    if file.exists():
        with refusals_named(file), file.open("ab"):
            pass


def check_room(folder: Path, model: nn.Module) -> None:
    """There must be room for all checkpoints that will stand at once, less those that stand already.

    Args:
        folder: Of checkpoints.
        model: What will be in them. The optimizer is taken to keep two numbers for each that is trained.

    Raises:
        DiskError: With the bytes needed and free.
    """
    one = _bytes_of(model)
    there = sum(path.stat().st_size for path in folder.glob("*.ckpt*") if path.is_file())
    needed = max(_CHECKPOINTS * one - there, one)  # one is always written beside the others
    home = next(path for path in (folder, *folder.parents) if path.exists())
    if shutil.disk_usage(home).free < needed:
        raise disk_error(
            folder, OSError(errno.ENOSPC, f"too little room for {_CHECKPOINTS} checkpoints"), needed
        )


def _bytes_of(model: nn.Module) -> int:
    parameters: list[Any] = list(model.parameters())
    weights = sum(x.numel() * x.element_size() for x in (*parameters, *model.buffers()))
    return weights + 2 * sum(x.numel() * x.element_size() for x in parameters if x.requires_grad)
