"""Trainings of `clip_study.py`: what one is, how it is run, and how finished ones are kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import clip_study_faults as faults
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


class Runner:
    """Runs trainings in processes and keeps what is finished in a file.

    Args:
        file: One finished training a line; a run that was cut goes on from it.
        folder: Holds the digits.
        workers: Processes; with 0 all is done in this one.
        steps: Optimizer steps of each training.
    """

    def __init__(self, file: Path, folder: Path, workers: int, steps: int) -> None:
        self.file, self.steps = file, steps
        file.parent.mkdir(parents=True, exist_ok=True)
        store = file.parent / "features.npz"
        read_pools(folder, store)
        self.done: dict[str, dict[str, Any]] = {}
        if file.exists():
            # The last line may have been cut in two.
            lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            file.write_text("".join(lines))
            found = map(json.loads, lines)
            self.done = {json.dumps(one["job"], sort_keys=True): one for one in found}
        self.pool: ProcessPoolExecutor | None = None
        if workers:
            os.environ["OMP_NUM_THREADS"] = "1"
            context = get_context("spawn")
            self.pool = ProcessPoolExecutor(
                workers, mp_context=context, initializer=begin, initargs=(folder, store)
            )
        else:
            begin(folder, store)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def all(self, jobs: Sequence[Job], what: str) -> list[dict[str, Any]]:
        """What each job has found, in their order."""
        missing = list({job.key: job for job in jobs if job.key not in self.done}.values())
        missing.sort(key=lambda job: (job.seed, job.condition))  # a process keeps a few seeds' data
        begun = time.monotonic()
        for count, (job, found) in enumerate(self._found(missing), 1):
            self._keep(job, found)
            if count % 50 == 0 or count == len(missing):
                left = (time.monotonic() - begun) / count * (len(missing) - count)
                print(f"{what}: {count} of {len(missing)}, {left:.0f} s left", flush=True)
        return [self.done[job.key] for job in jobs]

    def _found(self, jobs: Sequence[Job]) -> Any:
        if self.pool is None:
            yield from ((job, run(job, self.steps)) for job in jobs)
            return
        futures = {self.pool.submit(run, job, self.steps): job for job in jobs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))

    def _keep(self, job: Job, found: dict[str, Any]) -> None:
        self.done[job.key] = found
        with self.file.open("a") as file:
            file.write(json.dumps(found) + "\n")


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
