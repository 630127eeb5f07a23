"""Evaluates in one process and in two, and writes what each one found.

Run by `test_evaluation.py` and `robustness/test_curves.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_distill.data import MultimodalDataModule
from lightning_distill.evaluation import evaluate_subsets
from lightning_distill.model import MultimodalModel
from lightning_distill.robustness import Absence, Noise, robustness_curves
from lightning_distill.tasks import Classification
from tests.builders import VectorSource, make_data, make_model, make_trainer

Work = Callable[[MultimodalModel, MultimodalDataModule, Trainer], Any]


class Report(Callback):
    """Appends results to a file a process: only those of the first come back from its Trainer."""

    def __init__(self, found: str, folder: Path, name: str | None = None) -> None:
        self.found, self.folder, self.name = found, folder, name

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.folder / f"{self.name or trainer.global_rank}.json"
        before: list[Any] = json.loads(path.read_text()) if path.exists() else []
        results = [asdict(result) for result in getattr(pl_module, self.found)]
        path.write_text(json.dumps([*before, results]))


def evaluate_on_ranks(folder: Path, messy: dict[str, Any]) -> None:
    """`evaluate_subsets`."""
    task = Classification()
    _both(folder, messy, "results", lambda model, data, t: evaluate_subsets(model, data, task, "val", t))


def curves_on_ranks(folder: Path, messy: dict[str, Any]) -> None:
    """`robustness_curves`."""
    task, ways = Classification(), [Noise(), Absence()]
    _both(
        folder,
        messy,
        "curves",
        lambda model, data, t: robustness_curves(model, data, task, "val", ways, trainer=t),
    )


def _both(folder: Path, messy: dict[str, Any], found: str, work: Work) -> None:
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    model = make_model()
    for source in (VectorSource(**messy), VectorSource(unlabelled=range(28, 40))):
        for report, ranks in (
            (Report(found, folder, "one"), {}),
            (Report(found, folder), {"devices": 2, "strategy": "ddp_fork"}),
        ):
            work(model, make_data(source), make_trainer(folder, callbacks=[report], **ranks))
