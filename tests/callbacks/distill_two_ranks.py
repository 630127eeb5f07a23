"""Trains with `Distill` on one and on two processes; run by `test_distill.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from tests.builders import make_trainer
from tests.callbacks.distilled import make_distill
from tests.callbacks.foreign import Plain, vectors
from tests.module.parts import Steps


class Shared(LightningDataModule):
    """Every batch of one process is what two batches of two processes are together."""

    def train_dataloader(self) -> DataLoader[Any]:
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        x, y = (t[rank::processes] for t in vectors())
        return DataLoader(TensorDataset(x, y), batch_size=4 // processes)


class Reporting(Plain):
    """Writes a file a rank at the end."""

    def __init__(self, distill: Any, stem: str) -> None:
        super().__init__()
        self.features[1] = torch.nn.Identity()  # batch statistics differ by process
        self.distill, self.stem = distill, stem

    def on_fit_end(self) -> None:
        adaptor = self.distill.terms.losses["hint"].project
        report = {"weights": Steps.flat(self).tolist(), "adaptor": Steps.flat(adaptor).tolist()}
        Path(f"{self.stem}_{self.global_rank}.json").write_text(json.dumps(report))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for processes in (1, 2):
        for accumulate in (1, 2):
            torch.manual_seed(1)
            distill = make_distill()
            module = Reporting(distill, str(folder / f"{accumulate}_{processes}"))
            trainer = make_trainer(
                folder,
                devices=processes,
                strategy="auto" if processes == 1 else "ddp_fork",
                use_distributed_sampler=False,
                accumulate_grad_batches=accumulate,
                callbacks=[distill],
            )
            trainer.fit(module, Shared())
