"""The commands that train and use models: fit, validate, test, predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from lightning_distill.cli.command import DistillationCLI as DistillationCLI

__all__ = ["DistillationCLI", "run"]


def run(command: str, words: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
    """Do what the command line says.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        words: The command line after the program's name, the command among it.
        callbacks: To be added to those of the config; they are not written down.
    """
    from lightning_distill.cli.command import DistillationCLI

    DistillationCLI(command, words, callbacks)


def __getattr__(name: str) -> Any:
    if name == "DistillationCLI":
        from lightning_distill.cli.command import DistillationCLI

        return DistillationCLI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
