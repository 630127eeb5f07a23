"""One batch before training, to see shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader


def first_batch(trainer: Trainer, stage: str) -> Any:
    """A batch as the model will get it, on the CPU, read in this process.

    No random number of the training is used up, and no worker is started.

    Args:
        trainer: In `setup`, where the data are attached and not yet loaded.
        stage: As Lightning's hook `setup` is told: "fit", "validate" or "test".
    """
    loop: Any = {"fit": trainer.fit_loop, "validate": trainer.validate_loop, "test": trainer.test_loop}[stage]
    with torch.random.fork_rng(devices=[]):
        loaders = loop._data_source.dataloader()
        while isinstance(loaders, list | tuple | dict):
            loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
        batch = next(iter(_alone(loaders)))
    cpu = torch.device("cpu")
    return trainer.lightning_module._apply_batch_transfer_handler(batch, device=cpu, dataloader_idx=0)


def _alone(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader without workers."""
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    alone = copy.copy(loader)
    alone.num_workers, alone.timeout = 0, 0
    return alone
