"""The second table: what the clip rule is for."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_distill.clipping import ValueClip
from lightning_distill.commands.demo.constants import (
    BATCH_SIZE,
    CLIP_GRID,
    EPSILON,
    LEARNING_RATE,
    MODALITIES,
    MODALITY_DROPOUT,
    STEPS,
)
from lightning_distill.commands.demo.faults import BrokenSamples
from lightning_distill.commands.demo.models import adamw, model, one_cycle, processors, sgd
from lightning_distill.commands.demo.story import clean_and_corrupted
from lightning_distill.commands.demo.training import data_module, evaluate, fit, start
from lightning_distill.data.datasets import Digits
from lightning_distill.module import DistillationModule


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    optimizer: str
    learning_rate: float
    broken: bool
    clipped: bool


@dataclass(frozen=True)
class CellResult:
    """What came of it: accuracy on the source's clean test data."""

    optimizer: str
    learning_rate: float
    broken: bool
    clipped: bool
    accuracy: float
    stopped_at_step: int | None
    corrupted_accuracy: float | None


def grid() -> list[Cell]:
    """Every optimizer and learning rate, on clean and broken data, without and with the rule."""
    return [
        Cell(optimizer, rate, broken, clipped)
        for optimizer, rate in CLIP_GRID
        for broken in (False, True)
        for clipped in (False, True)
    ]


def run(cell: Cell, seed: int = 0, steps: int = STEPS) -> CellResult:
    """Train the teacher of the first table, without its feature clip, as the cell says."""
    start(seed)
    source = Digits("source", seed=seed)
    kind = BrokenSamples if cell.broken else None
    data = (
        data_module(source, MODALITIES)
        if kind is None
        else kind(source, processors(MODALITIES), BATCH_SIZE, in_memory=True)
    )
    trained = model(MODALITIES, modality_dropout=MODALITY_DROPOUT)
    make = adamw if cell.optimizer == "AdamW" else sgd
    module = DistillationModule(
        trained,
        clip_rule=ValueClip(EPSILON) if cell.clipped else None,
        optimizer=make(cell.learning_rate),
        lr_scheduler=one_cycle(cell.learning_rate, steps),
        scheduler_interval="step",
    )
    stopped = fit(module, data, steps)
    plain = cell == Cell("AdamW", LEARNING_RATE, broken=False, clipped=False)
    return CellResult(
        cell.optimizer,
        cell.learning_rate,
        cell.broken,
        cell.clipped,
        evaluate(trained, data)["accuracy"],
        stopped,
        clean_and_corrupted(trained, source)["corrupted"] if plain else None,
    )
