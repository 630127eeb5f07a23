"""SLURM's way to let a job go on later: it warns by a signal, and the job asks to be queued again."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any, Final

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_PATIENCE: Final = 30.0
"""Seconds after which a scheduler that does not answer is given up."""


def requeue_signal(trainer: Trainer) -> signal.Signals | None:
    """The signal that asks for `requeue`; None outside SLURM, and where it is not to requeue.

    Args:
        trainer: As Lightning has set it up.
    """
    found: Any = trainer._accelerator_connector.cluster_environment
    if not isinstance(found, SLURMEnvironment) or not found.auto_requeue:
        return None
    return found.requeue_signal


def requeue() -> bool:
    """Ask SLURM to queue this job once more; whether it will. If not, it is said what to do."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    if array is not None:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    command = ["scontrol", "requeue", job]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        failure = (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        answer, failure = None, str(error)
    if answer is not None and answer.returncode == 0:
        rank_zero_info(f"SLURM will run job {job} again; it then goes on from this checkpoint")
        return True
    by_hand = shlex.join(command)
    rank_zero_warn(f"the job could not be queued again ({failure}); to do so by hand: {by_hand}")
    return False
