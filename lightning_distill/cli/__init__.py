"""The commands that train and use models: fit, validate, test, predict."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_distill.cli.command import DistillationCLI

__all__ = ["DistillationCLI", "run"]


def run(command: str, words: Sequence[str]) -> None:
    """Do what the command line says.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        words: The command line after the program's name, the command among it.
    """
    DistillationCLI(command, words)
