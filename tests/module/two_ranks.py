"""Trains on two processes and writes what each one saw; run by `test_distributed.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_distill.data import BatchKey
from lightning_distill.tasks import Multilabel
from tests.builders import VectorSource, make_data, make_trainer
from tests.module.parts import Steps, TargetSource, make_module, several, supervised


class Report(Callback):
    """Notes the samples of every training batch, and writes a file a rank at the end."""

    def __init__(self, folder: Path, compare: bool) -> None:
        self.folder, self.compare = folder, compare
        self.epochs: list[list[int]] = []
        self.without_b: list[bool] = []
        self.validated: list[int] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1] += batch["sample_id"].tolist()
        self.without_b.append(not batch["present"]["b"].any())

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validated += batch["sample_id"].tolist()

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        report = {
            "epochs": self.epochs,
            "steps": trainer.global_step,
            "without_b": self.without_b,
            "validated": self.validated,
            "accuracy": alone(pl_module, trainer.datamodule) if self.compare else None,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "weights": Steps.flat(pl_module).tolist(),
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))


def alone(module: Any, data: Any) -> float:
    """Validation accuracy as one process finds it."""
    dataset = data.dataset("val")
    batch = dataset[BatchKey(0, np.arange(len(dataset)))]
    module.eval()
    with torch.no_grad():
        found = module(batch).logits.argmax(dim=1)
    return float((found == batch["target"]).float().mean())


def main(folder: Path, scenario: str) -> None:
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    report = Report(folder, compare=scenario.startswith("uneven"))
    trainer = make_trainer(folder, devices=2, strategy="ddp_fork", max_epochs=2, callbacks=[report])
    if scenario == "labels":
        # 28 training samples; of 13 validation samples only the last has a label, so one rank sees none.
        trainer.fit(make_module(), make_data(VectorSource(unlabelled=range(28, 40))))
    if scenario.startswith("uneven"):
        size = int(scenario.removeprefix("uneven"))
        trainer.fit(make_module(), datamodule=make_data(VectorSource(val=size), batch_size=2))
    if scenario == "modalities":
        # Batches of two, and half of the samples lack "b": often all of a rank's batch and not the other's.
        data = make_data(VectorSource(absent={"b": range(0, 28, 2)}), batch_size=2)
        trainer.fit(supervised(), data)
    if scenario == "multilabel":
        # As "labels": a metric whose state is a list must not wait for the rank that has none.
        data = make_data(TargetSource(several(unknown=range(28, 40))))
        trainer.fit(supervised(task=Multilabel()), data)
