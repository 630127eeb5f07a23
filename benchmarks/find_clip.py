"""How near `ClipRangeFinder` comes, in five trials, to an exhaustive grid of learning rates and ranges.

    LIGHTNING_DISTILL_DATA=DATA python benchmarks/find_clip.py --out benchmarks/results/find_clip.json

The teacher of `clip_study.py` on stored features, with SGD and AdamW, on clean data and with 1 % broken
training samples. The grid has every learning rate with every range in decades, and none. The finder starts
from each of the grid's learning rates; it makes one training without a clip, which is what it starts from,
and five more. Same seed, weights and batches for all, so the grid's best is the best of many draws, and a gap
holds that luck too. Both choose by validation accuracy; the gap on test data is told beside.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from clip_study_data import MODALITIES, Rows, batch_of, pair, read_pools
from clip_study_faults import broken
from clip_study_models import BATCH, Parts, Recipe, make_model, make_optimizer
from lightning.pytorch import LightningDataModule
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from lightning_distill.module import DistillationModule
from lightning_distill.range_finding.finder import Choice, ClipRangeFinder, Goal, Trial
from lightning_distill.structures import Batch

RATES: Final = {"sgd": (0.01, 0.03, 0.1, 0.3, 1.0), "adamw": (0.0003, 0.001, 0.003, 0.01, 0.03)}
RANGES: Final = (None, 1.0, 0.1, 0.01, 1e-3, 1e-4)
STEPS: Final = 250
TRIALS: Final = 5


@dataclass
class Draws:
    """Batches drawn with replacement, the same ones every time."""

    rows: Rows
    seed: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            yield batch_of(self.rows, torch.randint(len(self.rows), (BATCH,), generator=draw))


class Data(LightningDataModule):
    """Rows in memory."""

    def __init__(self, train: Rows, val: Rows, test: Rows, seed: int, steps: int) -> None:
        super().__init__()
        self.train, self.val, self.test, self.seed, self.steps = train, val, test, seed, steps

    def train_dataloader(self) -> Draws:
        return Draws(self.train, self.seed, self.steps)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([batch_of(self.val, slice(None))], batch_size=None)  # type: ignore[arg-type]


class Finder(ClipRangeFinder):
    """Also keeps what each training gets on test data."""

    tests: dict[Choice, float]

    def trial(self, choice: Choice, recorder: Any = None) -> Trial:
        made = super().trial(choice, recorder)
        self.tests[choice] = self.last.tested
        return made

    def _fresh(self, rate: float) -> DistillationModule:
        self.last = super()._fresh(rate)
        return self.last


class Module(DistillationModule):
    """Tests itself when training ends."""

    rows: Rows
    tested = 0.0

    def on_train_end(self) -> None:
        self.student.eval()
        with torch.no_grad():
            logits = self.student(batch_of(self.rows, slice(None))).logits
        self.tested = 100 * float((logits.argmax(1) == self.rows.target).double().mean())
        self.student.train()


def make_module(data: Data, optimizer: str, rate: float, seed: int) -> Module:
    recipe = Recipe(optimizer, rate, data.steps, seed)
    module = Module(
        make_model(data.train, MODALITIES, Parts(), 0.0),
        optimizer=lambda parameters: make_optimizer(recipe, list(parameters)),
        lr_scheduler=lambda made: LambdaLR(made, lambda step: 1 - step / data.steps),
        scheduler_interval="step",
    )
    module.rows = data.test
    return module


def finder(data: Data, optimizer: str, rate: float, seed: int) -> Finder:
    trainer = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 100}
    made = Finder(
        partial(make_module, data, optimizer, rate, seed),
        data,
        trainer,
        rates=True,
        trials=TRIALS,
        goal=Goal("val/accuracy", "max"),
        seed=seed,
    )
    made.tests = {}
    return made


def percent(value: float | None) -> float:
    return 0.0 if value is None else 100 * value


def compare(data: Data, optimizer: str, seed: int) -> dict[str, Any]:
    """The grid, and the finder from each of its rates."""
    grid = []
    base = finder(data, optimizer, RATES[optimizer][0], seed)
    for rate in RATES[optimizer]:
        for epsilon in RANGES:
            choice = Choice(epsilon, rate / RATES[optimizer][0])
            made = base.trial(choice)
            cell = {"rate": rate, "epsilon": epsilon, "val": percent(made.value)}
            grid.append(cell | {"test": base.tests[choice]})
    best = max(grid, key=lambda cell: cell["val"])
    return {
        "grid": grid,
        "best": best,
        "found": [_found(data, optimizer, r, seed, best) for r in RATES[optimizer]],
    }


def _found(data: Data, optimizer: str, rate: float, seed: int, best: Mapping[str, Any]) -> dict[str, Any]:
    search = finder(data, optimizer, rate, seed)
    result = search.run()
    chosen = result.chosen
    test = search.tests[chosen.choice]
    return {
        "start": rate,
        "rate": chosen.learning_rate,
        "epsilon": chosen.choice.epsilon,
        "why": chosen.choice.why,
        "val": percent(chosen.value),
        "test": test,
        "gap": best["val"] - percent(chosen.value),
        "test_gap": best["test"] - test,
        "trials": [(t.learning_rate, t.choice.why, percent(t.value)) for t in result.trials],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    began = time.perf_counter()
    pools = read_pools(Path(os.environ["LIGHTNING_DISTILL_DATA"]) / "digits")
    rows = []
    for seed in range(options.seeds):
        train, val, test = (pair(pools, seed, split) for split in ("train", "val", "test"))
        for data_name, given in (("clean", train), ("1 % broken", broken(train, seed))):
            for optimizer in RATES:
                made = compare(Data(given, val, test, seed, options.steps), optimizer, seed)
                rows.append({"seed": seed, "data": data_name, "optimizer": optimizer, **made})
                gaps = [f"{f['gap']:+.2f}" for f in made["found"]]
                print(f"seed {seed}, {data_name}, {optimizer}: best {made['best']}, gaps {gaps}", flush=True)
    gaps = [f["gap"] for row in rows for f in row["found"]]
    told = {
        "about": "gap in points of validation accuracy between the grid's best and the finder's choice",
        "seeds": options.seeds,
        "steps": options.steps,
        "trials": 1 + TRIALS,
        "grid": len(RANGES) * len(RATES["sgd"]),
        "gap": {"median": statistics.median(gaps), "min": min(gaps), "max": max(gaps)},
        "within_a_point": sum(gap <= 1 for gap in gaps) / len(gaps),
        "test_gap_median": statistics.median(f["test_gap"] for row in rows for f in row["found"]),
        "seconds": time.perf_counter() - began,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    print({key: value for key, value in told.items() if key != "rows"})
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
