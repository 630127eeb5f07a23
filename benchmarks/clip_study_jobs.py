"""Trainings of `clip_study.py`: what one is, how it is run, and how finished ones are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import clip_study_faults as faults
import kept
import torch
from clip_study_data import MODALITIES, Pool, Rows, pair, read_pools
from clip_study_models import Parts, Recipe, accuracy, answers, train
from clip_study_rows import row
from torch.nn import functional as F


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        part: "rules", "features", "joint", or "late": one model a modality, whose answers are added.
        row: Name of what is compared.
        optimizer: "sgd" or "adamw".
        condition: Of the training data, "clean" or "broken".
        seed: Of pairing, faults, weights and batches.
        tested: Whether the test set is looked at; it is not while anything is chosen.
        value: Range.
        rate: Learning rate.
        dropout: Of modalities.
        modalities: Read by the model.
        rates: "late": a learning rate a modality.
    """

    part: str
    row: str
    optimizer: str
    condition: str
    seed: int
    tested: bool
    value: float = 0.0
    rate: float = 0.0
    dropout: float = 0.0
    modalities: tuple[str, ...] = MODALITIES
    rates: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)


# -- in a worker -----------------------------------------------------------------------------------------

_POOLS: dict[str, Pool] = {}


def begin(folder: Path, store: Path) -> None:
    """Make a process ready."""
    torch.set_num_threads(1)
    _POOLS.update(read_pools(folder, store))
    rows_of.cache_clear()
    cases_of.cache_clear()


@lru_cache(maxsize=8)
def rows_of(seed: int, split: str, condition: str = "clean") -> Rows:
    """Triples; training ones as the condition has it."""
    rows = pair(_POOLS, seed, split)
    return faults.broken(rows, seed) if condition == "broken" else rows


@lru_cache(maxsize=4)
def cases_of(seed: int, split: str) -> Mapping[str, Rows]:
    """Name of a fault -> rows with it."""
    return faults.conditions(rows_of(seed, split), seed)


def run(job: Job, steps: int) -> dict[str, Any]:
    """Train and measure: accuracies in %, the loss on clean validation rows in nats."""
    begun = time.perf_counter()
    if job.part == "late":
        return {"job": asdict(job), **_late(job, steps), "seconds": round(time.perf_counter() - begun, 2)}
    parts = row(job.part, job.row).make(job.value)
    recipe = Recipe(job.optimizer, job.rate, steps, job.seed, job.dropout)
    trained = train(*_data(job), job.modalities, recipe, parts)
    measured: dict[str, dict[str, float]] = {"val": {}, "test": {}}
    for split in measured if job.tested else ("val",):
        features = job.part == "features"
        cases = cases_of(job.seed, split) if features else {"clean": rows_of(job.seed, split)}
        measured[split] = {name: accuracy(answers(trained.model, x), x) for name, x in cases.items()}
    val = rows_of(job.seed, "val")
    return {
        "job": asdict(job),
        **measured,
        "loss": float(F.nll_loss(answers(trained.model, val), val.target)),
        "finite": trained.finite(),
        "seconds": round(time.perf_counter() - begun, 2),
    }


def _data(job: Job) -> tuple[Rows, Rows]:
    return rows_of(job.seed, "train", job.condition), rows_of(job.seed, "val")


def _late(job: Job, steps: int) -> dict[str, Any]:
    models = []
    for modality, rate in zip(job.modalities, job.rates, strict=True):
        recipe = Recipe(job.optimizer, rate, steps, job.seed)
        models.append(train(*_data(job), (modality,), recipe, Parts()).model)
    found: dict[str, Any] = {}
    for split in ("val", "test"):
        rows = rows_of(job.seed, split)
        summed = torch.stack([answers(model, rows) for model in models]).sum(0)
        found[split] = {"clean": accuracy(summed, rows)}
    return found


# -- all of them -----------------------------------------------------------------------------------------


class Runner(kept.Runner[Job]):
    """Runs trainings and keeps what is finished.

    Args:
        file: One finished training a line.
        folder: Holds the digits.
        workers: Processes; with 0 all is done in this one.
        steps: Optimizer steps of each training.
    """

    def __init__(self, file: Path, folder: Path, workers: int, steps: int) -> None:
        store = file.parent / "features.npz"
        read_pools(folder, store)
        super().__init__(file, partial(run, steps=steps), begin, (folder, store), workers)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """A process keeps a few seeds' data."""
        return sorted(super().missing(jobs), key=lambda job: (job.seed, job.condition))


class Counter:
    """Stands in for a runner, to count the trainings of a plan beforehand."""

    def __init__(self) -> None:
        self.keys: dict[str, Job] = {}

    def all(self, jobs: Sequence[Job], what: str) -> list[dict[str, Any]]:
        """Found out of thin air."""
        self.keys |= {job.key: job for job in jobs}
        return [{"val": {"clean": 0.0}, "test": {"clean": 0.0}, "loss": 0.0} for _ in jobs]

    def missing(self, runner: Runner) -> list[Job]:
        """Those that are not done."""
        return [job for key, job in self.keys.items() if key not in runner.done]
