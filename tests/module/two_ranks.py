"""Trains on two processes and writes what each one saw; run by `test_distributed.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from tests.builders import VectorSource, make_data, make_trainer
from tests.module.parts import Steps, make_module


class Report(Callback):
    """Notes the samples of every training batch, and writes a file a rank at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs[-1] += batch["sample_id"].tolist()

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        report = {
            "epochs": self.epochs,
            "steps": trainer.global_step,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "weights": Steps.flat(pl_module).tolist(),
        }
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(report))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seed_everything(3, verbose=False)
    # 28 training samples; of 13 validation samples only the last has a label, so one rank sees none.
    data = make_data(VectorSource(unlabelled=range(28, 40)))
    trainer = make_trainer(folder, devices=2, strategy="ddp_fork", max_epochs=2, callbacks=[Report(folder)])
    trainer.fit(make_module(), data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
