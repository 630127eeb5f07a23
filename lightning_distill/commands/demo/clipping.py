"""The second table: what the clip rule is for."""

from __future__ import annotations

from functools import cache

from lightning_distill.clipping import ValueClip
from lightning_distill.commands.demo.constants import (
    BATCH_SIZE,
    EPSILON,
    FEATURE_EPSILON,
    MODALITIES,
    MODALITY_DROPOUT,
)
from lightning_distill.commands.demo.faults import BrokenSamples, CorruptedInputs
from lightning_distill.commands.demo.models import adamw, model, one_cycle, processors, sgd
from lightning_distill.commands.demo.records import FEATURE_CLIP_PAIR, Cell, CellResult
from lightning_distill.commands.demo.training import evaluate, fit, start
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.datasets import Digits
from lightning_distill.feature_clipping import HardClip
from lightning_distill.module import DistillationModule


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
