"""Validates on one and on two processes; run by `test_callbacks.py`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.builders import make_trainer
from tests.module.parts import make_module
from tests.validators.parts import EVERY, Domains, Watch


class Report(Watch):
    """Writes what is logged to a file a process."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        self.stem = stem

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        Path(f"{self.stem}_{trainer.global_rank}.json").write_text(json.dumps(self.rows[-1]))


class OneSided(Domains):
    """The second process sees no target row at all."""

    def val_dataloader(self):  # type: ignore[no-untyped-def]
        rows = range(18, 43)
        if self.trainer is not None and self.trainer.world_size > 1:
            odd = self.trainer.global_rank == 0
            return self.loader([row for row in rows if bool(self.of_target[row]) == odd], 4)
        return self.loader(rows, 4)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, kind in (("uneven", Domains), ("one_sided", OneSided)):
        for processes in (1, 2):
            torch.manual_seed(1)
            callbacks: list[Callback] = [cls() for cls in EVERY]
            trainer = make_trainer(
                folder,
                devices=processes,
                strategy="auto" if processes == 1 else "ddp_fork",
                use_distributed_sampler=False,
                callbacks=[*callbacks, Report(f"{folder}/{name}_{processes}")],
            )
            trainer.validate(make_module(), datamodule=kind(), verbose=False)
