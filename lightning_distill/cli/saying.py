"""What `fit` says before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_distill.cli.config_changes import differences
from lightning_distill.cli.run_folder import RunFolder
from lightning_distill.errors import printable


def say_differences(checkpoint: str | None, config: str) -> None:
    """In which settings a run differs from the one it goes on from, where that is known.

    Args:
        checkpoint: It goes on from; None where it starts.
        config: Text of its config, without secrets.
    """
    source = RunFolder.of_checkpoint(checkpoint) if checkpoint and Path(checkpoint).is_file() else None
    for line in differences(source.config, config)[:20] if source is not None else ():
        print(printable(f"changed since the checkpoint: {line}", 2000))


def say_result(folder: RunFolder, sync: Sequence[str]) -> None:
    """Where it all lies, and what can be done next.

    Args:
        folder: Of the run.
        sync: Commands that upload what was logged offline.
    """
    run = printable(folder, 4000)
    print(f"run: {run}")
    if folder.student.is_dir():
        print(f"student: {run}/student")
    for line in sync:
        print(printable(f"upload the log: {line}", 5000))
    print(f"next: lightning-distill test --run {run}")
