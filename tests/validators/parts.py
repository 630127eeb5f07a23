"""Two domains in memory: odd rows are of the target, whose labels can be poisoned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_distill.structures import UNLABELLED, Batch
from lightning_distill.validators import (
    Answers,
    BatchNuclearNorm,
    ImportanceWeightedRisk,
    MutualInformation,
    NegativeEntropy,
    SoftNeighbourhoodDensity,
    TargetValidator,
    TeacherAgreement,
)
from tests.builders import DIMS, make_trainer

ALONE = (
    BatchNuclearNorm,
    ImportanceWeightedRisk,
    MutualInformation,
    NegativeEntropy,
    SoftNeighbourhoodDensity,
)
"""Validators that need no teacher."""
EVERY = (*ALONE, TeacherAgreement)


class Domains(LightningDataModule):
    """Vectors around one mean a class; the target is shifted.

    Args:
        labels: The label of every target row; by default the true ones.
        targets: Whether there are target rows in validation.
        told: Whether batches tell which rows are of the target.
        backwards: Whether validation goes from the last row to the first.
    """

    def __init__(
        self, labels: int | None = None, targets: bool = True, told: bool = True, backwards: bool = False
    ) -> None:
        super().__init__()
        numbers, size = torch.Generator().manual_seed(3), 43
        target = torch.randint(3, (size,), generator=numbers)
        of_target = torch.arange(size) % 2 == 1
        means = {m: torch.randn(3, dim, generator=numbers) for m, dim in DIMS.items()}
        noise = {m: torch.randn(size, dim, generator=numbers) for m, dim in DIMS.items()}
        self.inputs = {m: means[m][target] + 0.7 * noise[m] + 0.4 * of_target[:, None] for m in DIMS}
        self.target = target if labels is None else target.masked_fill(of_target, labels)
        self.of_target, self.ids = of_target, torch.randperm(size, generator=numbers)
        self.targets, self.told, self.backwards = targets, told, backwards

    def batch(self, rows: Sequence[int]) -> Batch:
        made: Batch = {
            "inputs": {m: x[rows] for m, x in self.inputs.items()},
            "present": {m: torch.ones(len(rows), dtype=torch.bool) for m in DIMS},
            "target": self.target[rows],
            "sample_id": self.ids[rows],
            "domain": self.of_target[rows].long(),
        }
        if self.told:
            made["in_target_domain"] = self.of_target[rows]
        return made

    def loader(self, rows: Sequence[int], size: int) -> DataLoader[Any]:
        return DataLoader(list(rows), batch_size=size, collate_fn=self.batch)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        kept = self.target.clone()
        self.target = kept.masked_fill(self.of_target, UNLABELLED)  # nobody trains on the target's labels
        batches = [self.batch(range(i, i + 6)) for i in range(0, 18, 6)]
        self.target = kept
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        rows = [row for row in range(18, 43) if self.targets or not self.of_target[row]]
        # The last of several processes has fewer rows, in batches of its own.
        mine = rows[self.trainer.global_rank :: self.trainer.world_size] if self.trainer else rows
        return self.loader(mine[::-1] if self.backwards else mine, 4)

    test_dataloader = val_dataloader


class Seen(TargetValidator):
    """Keeps what it is given."""

    name = "seen"
    needs_source = True
    layer = "features.a"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Answers, Answers]] = []

    def score(self, source: Answers, target: Answers) -> torch.Tensor:
        self.calls.append((source, target))
        return torch.tensor(float(len(self.calls)))


class Watch(Callback):
    """Notes what is logged, when those who monitor read it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/validator/")}
        self.rows.append(found)


def validated(
    folder: Path,
    module: LightningModule,
    data: LightningDataModule,
    callbacks: list[Callback],
    **options: Any,
) -> dict[str, float]:
    """What one validation logs."""
    watch = Watch()
    trainer = make_trainer(folder, callbacks=[*callbacks, watch], **options)
    trainer.validate(module, datamodule=data, verbose=False)
    return watch.rows[-1] if watch.rows else {}
