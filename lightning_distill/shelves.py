"""Where the package keeps what a config may name."""

from __future__ import annotations

from importlib import import_module
from typing import Final

SHELVES: Final = (
    "balancing",
    "callbacks",
    "clipping",
    "data",
    "data.datasets",
    "encoders",
    "feature_clipping",
    "fusion",
    "gradient_balancing",
    "heads",
    "losses",
    "schedules",
    "tasks",
    "teachers",
    "units",
    "validators",
)
"""Where the package keeps what a config may name."""


def import_shelves() -> None:
    """Import all shelves, so that a config may name their classes without the path."""
    for shelf in (*SHELVES, "mutual"):
        module = import_module(f"lightning_distill.{shelf}")
        for name in getattr(module, "__all__", ()):  # some shelves load a class when it is first asked for
            getattr(module, name)
