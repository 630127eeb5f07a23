"""How often a fault is injected: few times for every change, many times at night."""

from __future__ import annotations

import os

NIGHTLY = bool(os.environ.get("LIGHTNING_DISTILL_NIGHTLY"))


def times(per_commit: int, nightly: int) -> int:
    """The number of injections of this run."""
    return nightly if NIGHTLY else per_commit
