"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lightning_distill.checkpoints.file import read_checkpoint, read_header, verify
from lightning_distill.checkpoints.replacing import PREVIOUS
from lightning_distill.errors import CheckpointError

_SPLIT = "meta.pt"
"""What the folder of a split model's checkpoint says beside its weights."""


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

    Those of other programs, and folders of split models, which cannot be verified, come last. Of equally new
    ones `last.ckpt` comes first.

    Args:
        folder: May be missing.
    """
    damaged, ages = list[CheckpointError](), dict[Path, tuple[int, ...]]()
    for path in sorted([*folder.glob("*.ckpt"), *folder.glob(f"*.ckpt{PREVIOUS}")]):
        try:
            ages[path] = _age(path)
        except CheckpointError as error:
            damaged.append(error)
    for path in sorted(ages, key=ages.__getitem__, reverse=True):
        try:
            if not path.is_dir():
                verify(path)
        except CheckpointError as error:
            damaged.append(error)
        else:
            return Newest(path, tuple(damaged))
    return Newest(None, tuple(damaged))


def _age(path: Path) -> tuple[int, ...]:
    """Sorts a checkpoint: the larger, the newer."""
    header = None if path.is_dir() else read_header(path)
    if header is None:
        found = read_checkpoint(path / _SPLIT if path.is_dir() else path)
        step, epoch = (found.get(key) for key in ("global_step", "epoch"))
        age = (0, *(value if isinstance(value, int) else -1 for value in (step, epoch)))
    else:
        age = (1, *header)
    return (*age, path.suffix != PREVIOUS, path.name.startswith("last.ckpt"))
