"""What a run has logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Curve:
    """One metric over the training.

    Attributes:
        name: As logged, for example `val/loss`.
        steps: Optimizer steps.
        values: As many; only finite ones.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(history: Path) -> dict[str, Curve]:
    """Every metric of a run's `metrics.csv`, by name.

    Args:
        history: The file.

    Raises:
        CheckpointError: If it is missing or no such file.
    """
    raise NotImplementedError
