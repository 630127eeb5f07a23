"""Offline runs of Weights & Biases: how they are uploaded, and how a resumed one goes on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import WandbLogger

_OFFLINE: Final = ("offline", "dryrun")
_CUT_OFF: Final = 100
"""Rows a session may have sent that `metrics.csv` does not have: a table, and what was cut off with it."""


def is_offline(run: Any) -> bool:
    """Whether a run of W&B only writes files."""
    return getattr(getattr(run, "settings", None), "mode", "") in _OFFLINE


def sync_line(logger: WandbLogger) -> str | None:
    """The command that uploads an offline run: all sessions of it, oldest first.

    Args:
        logger: Of the run.
    """
    run = logger.experiment
    if getattr(logger, "failed", False) or not is_offline(run):
        return None
    return shlex.join(["wandb", "sync", *map(str, _sessions(run))])


def first_step(run: Any, rows: int) -> int | None:
    """W&B's own step that a resumed session begins with, so that it does not run backwards.

    Online W&B knows how far the run was. Offline it would begin with 0 again, and the upload would write over
    what there is. A gap does no harm.

    Args:
        run: W&B's.
        rows: Of `metrics.csv`, before what is done again is dropped from it.

    Returns:
        The step; None where W&B knows itself.
    """
    return rows + _CUT_OFF * (len(_sessions(run)) - 1) if is_offline(run) else None


def _sessions(run: Any) -> list[Path]:
    """Folders of an offline run; their names begin with the time."""
    own = Path(run.dir).parent
    return sorted(own.parent.glob(f"offline-run-*-{run.id}")) or [own]
