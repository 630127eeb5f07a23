"""What `fit --resume auto` goes on from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

from lightning_distill.checkpoints import newest_good
from lightning_distill.errors import CheckpointError, ConfigError, printable

if TYPE_CHECKING:
    from lightning_distill.cli.run_folder import RunFolder


def checkpoint_to_resume(folder: RunFolder, named: str | None, may_start: bool) -> Path | None:
    """The newest good checkpoint of a run; damaged newer ones are told.

    Args:
        folder: Of the run; it may be missing.
        named: What `--ckpt_path` names.
        may_start: Whether a run without a checkpoint is to be started: a batch job that is put back into its
            queue has the same words the first time and every time.

    Returns:
        None where the run starts from its beginning.

    Raises:
        CheckpointError: If all checkpoints are damaged, or there is none and the run must not start.
        ConfigError: If it is not the folder of a run, or a checkpoint is named too.
    """
    if named:
        raise ConfigError(
            where="command line",
            found="--resume and --ckpt_path",
            expected="one of the two",
            fix="--resume auto goes on with a run; --ckpt_path starts a new run from a checkpoint",
        )
    found = newest_good(folder.checkpoints)
    told = "; ".join(f"{error.where}: {error.found}" for error in found.damaged)
    if found.path is not None:
        if told:
            _say(f"warning: going on from the older {found.path}, since newer ones are damaged: {told}")
        return found.path
    if told:
        raise CheckpointError(
            where=f"--run {folder}",
            found=f"no checkpoint that is whole: {told}",
            expected="at least one",
            fix="restore one from a copy, or start again with --overwrite",
        )
    if not may_start:
        return folder.last_checkpoint()  # which says what is missing
    if not folder.is_run_or_empty:
        raise ConfigError(
            where=f"--run {folder}",
            found="neither a run nor an empty folder",
            expected="a run to go on with, or a new folder",
            fix="name another folder",
        )
    _say(f"--resume auto: {folder} has no checkpoint yet, so the run starts from the beginning")
    return None


@rank_zero_only
def _say(line: str) -> None:
    print(printable(line, 5000), file=sys.stderr)
