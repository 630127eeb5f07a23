"""A LightningModule of somebody who has never heard of this library, and the data it is trained on."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Plain(LightningModule):
    """A small classifier with a learning-rate schedule."""

    def __init__(self, manual: bool = False, as_dict: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.as_dict = as_dict
        self.features = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(8, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = (batch["x"], batch["label"]) if isinstance(batch, dict) else batch
        loss = nn.functional.cross_entropy(self(x), y)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train/own", loss)
        return {"loss": loss, "more": 1} if self.as_dict else loss

    def configure_optimizers(self) -> Any:
        body = [{"params": self.features.parameters()}, {"params": self.head.parameters(), "lr": 0.05}]
        optimizer = torch.optim.SGD(body, lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def vectors(size: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    numbers = torch.Generator().manual_seed(5)
    x = torch.randn(size, 6, generator=numbers)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def loader(size: int = 16, batch_size: int = 4) -> DataLoader[Any]:
    """Tuples (x, y), in order."""
    return DataLoader(TensorDataset(*vectors(size)), batch_size=batch_size)


class PlainData(LightningDataModule):
    """Tuples for fit, validate and test."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared, self.stages = 0, []

    def prepare_data(self) -> None:
        self.prepared += 1

    def setup(self, stage: str) -> None:
        self.stages.append(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(8)

    test_dataloader = val_dataloader

    def state_dict(self) -> dict[str, Any]:
        return {"prepared": self.prepared}
