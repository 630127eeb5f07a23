"""Whether a folder takes checkpoints, found out before the first step and not after the first epoch."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_distill.writing.disk import disk_error, refusals_named, sync

if TYPE_CHECKING:
    from torch import nn


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
    """There must be room for two checkpoints: the old one stays until the new one is whole.

    Args:
        folder: Of the run.
        model: What will be in them. The optimizer is taken to keep two numbers for each that is trained.

    Raises:
        DiskError: With the bytes needed and free.
    """
    needed, free = 2 * _bytes_of(model), shutil.disk_usage(folder).free
    if free < needed:
        raise disk_error(folder, OSError(errno.ENOSPC, "too little room for two checkpoints"), needed)


def _bytes_of(model: nn.Module) -> int:
    parameters: list[Any] = list(model.parameters())
    weights = sum(x.numel() * x.element_size() for x in (*parameters, *model.buffers()))
    return weights + 2 * sum(x.numel() * x.element_size() for x in parameters if x.requires_grad)
