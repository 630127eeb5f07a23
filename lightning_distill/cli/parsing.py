"""A config as `fit` would use it, for commands that do something else with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_distill.cli.command import DistillationCLI
from lightning_distill.security.allowed import kept


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The full config; nothing is made or run.

    Args:
        words: The command line after the program's name, "fit" first.
    """
    with kept():
        return _Parsed("fit", words).plain_config


class _Parsed(DistillationCLI):
    """Makes and runs nothing."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""
