"""The second table: what the clip rule is for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from lightning_distill.clipping import ValueClip
from lightning_distill.commands.demo.constants import (
    BATCH_SIZE,
    CLIP_GRID,
    EPSILON,
    FEATURE_EPSILON,
    LEARNING_RATE,
    MODALITIES,
    MODALITY_DROPOUT,
)
from lightning_distill.commands.demo.faults import BrokenSamples, CorruptedInputs
from lightning_distill.commands.demo.models import adamw, model, one_cycle, processors, sgd
from lightning_distill.commands.demo.training import evaluate, fit, start
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.datasets import Digits
from lightning_distill.feature_clipping import HardClip
from lightning_distill.module import DistillationModule


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


@cache
def _source(seed: int, kind: type[MultimodalDataModule]) -> MultimodalDataModule:
    """The data of a process's cells, prepared once."""
    return kind(Digits("source", seed=seed), processors(MODALITIES), BATCH_SIZE, in_memory=True)


def run(cell: Cell, seed: int, steps: int) -> CellResult:
    """Train a teacher as the cell says.

    It is the first table's teacher but for its audio encoder, which has no normalisation: group
    normalisation by itself makes up for most of what is shown here.
    """
    start(seed)
    data = _source(seed, BrokenSamples if cell.broken else MultimodalDataModule)
    trained = model(
        MODALITIES,
        HardClip(FEATURE_EPSILON) if cell.feature_clip else None,
        MODALITY_DROPOUT,
        normalise_audio=False,
    )
    make = adamw if cell.optimizer == "AdamW" else sgd
    module = DistillationModule(
        trained,
        clip_rule=ValueClip(EPSILON) if cell.clipped else None,
        optimizer=make(cell.learning_rate),
        lr_scheduler=one_cycle(cell.learning_rate, steps),
        scheduler_interval="step",
    )
    stopped = fit(module, data, steps)
    corrupted = None
    if cell in FEATURE_CLIP_PAIR:
        corrupted = evaluate(trained, _source(seed, CorruptedInputs))["accuracy"]
    return CellResult(cell, evaluate(trained, data)["accuracy"], stopped, corrupted)
