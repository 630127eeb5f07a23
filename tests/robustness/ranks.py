"""Curves in one process and in two, each written to a file; run by `test_curves.py`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_distill.robustness import Absence, Noise, robustness_curves
from lightning_distill.tasks import Classification
from tests.builders import VectorSource, make_data, make_model, make_trainer


class Report(Callback):
    """Appends curves to a file: only those of the first process come back from its Trainer."""

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder, self.name = folder, name

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.folder / f"{self.name or trainer.global_rank}.json"
        found: list[Any] = json.loads(path.read_text()) if path.exists() else []
        curves: Any = pl_module.curves
        path.write_text(json.dumps([*found, [asdict(curve) for curve in curves]]))


def main(folder: Path, messy: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    model = make_model()
    for source in (VectorSource(**messy), VectorSource(unlabelled=range(28, 40))):
        for report, ranks in (
            (Report(folder, "one"), {}),
            (Report(folder), {"devices": 2, "strategy": "ddp_fork"}),
        ):
            trainer = make_trainer(folder, callbacks=[report], **ranks)
            ways = [Noise(), Absence()]
            robustness_curves(model, make_data(source), Classification(), "val", ways, trainer=trainer)
