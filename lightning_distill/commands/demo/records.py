"""What the demo's processes hand each other; no heavy imports, so that the parent process stays light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lightning_distill.commands.demo.constants import CLIP_GRID, LEARNING_RATE


@dataclass(frozen=True)
class Result:
    """One trained model on the target domain's test set."""

    name: str
    modalities: tuple[str, ...]
    params: int
    ms_per_sample: float
    accuracy: float
    agreement: float
    ece: float


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    optimizer: str
    learning_rate: float
    broken: bool = False
    clipped: bool = False
    feature_clip: bool = False


@dataclass(frozen=True)
class CellResult:
    """What came of it.

    Attributes:
        cell: The training.
        accuracy: On the source's clean test data.
        stopped_at_step: Where the loss was no longer finite, if it was.
        corrupted_accuracy: On corrupted test data, where that was asked for.
    """

    cell: Cell
    accuracy: float
    stopped_at_step: int | None
    corrupted_accuracy: float | None


FEATURE_CLIP_PAIR: Final = (
    Cell("AdamW", LEARNING_RATE),
    Cell("AdamW", LEARNING_RATE, feature_clip=True),
)
"""The two trainings that the fused-feature clip is judged by."""


def grid() -> list[Cell]:
    """Optimizers and learning rates on clean and broken data, without and with the rule."""
    cells = [
        Cell(optimizer, rate, broken, clipped)
        for optimizer, rate, faults in CLIP_GRID
        for broken in faults
        for clipped in (False, True)
    ]
    return [*cells, FEATURE_CLIP_PAIR[1]]
