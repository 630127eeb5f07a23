"""Data as they come in practice: broken training samples, corrupted inputs at test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_distill.commands.demo.constants import (
    BROKEN_FACTOR,
    BROKEN_MODALITY,
    BROKEN_SHARE,
    CORRUPTED_SHARE,
    CORRUPTED_VALUE,
)
from lightning_distill.data import BatchKey, MultimodalDataModule, MultimodalDataset
from lightning_distill.errors import DistillError
from lightning_distill.randomness import generator, uniform
from lightning_distill.structures import Batch


class _Wrapped(Dataset[Batch]):
    def __init__(self, clean: MultimodalDataset) -> None:
        self.clean = clean

    def __len__(self) -> int:
        return len(self.clean)

    def read(self, key: BatchKey) -> tuple[Batch, Tensor]:
        """The clean batch and the feature to spoil."""
        batch = self.clean[key]
        if isinstance(batch, DistillError):
            raise batch
        features = batch["inputs"][BROKEN_MODALITY]
        assert isinstance(features, Tensor)
        return batch, features


class _Broken(_Wrapped):
    def __getitem__(self, key: BatchKey) -> Batch:
        batch, features = self.read(key)
        draws = uniform(0, 0, batch["sample_id"].numpy(), "broken", 2)
        broken = torch.from_numpy(draws[:, 0] < BROKEN_SHARE)
        label = torch.from_numpy((draws[:, 1] * 10).astype(np.int64))
        batch["inputs"][BROKEN_MODALITY] = torch.where(
            broken[:, None, None], features * BROKEN_FACTOR, features
        )
        batch["target"] = torch.where(broken, label, batch["target"])
        return batch


class _Corrupted(_Wrapped):
    def __getitem__(self, key: BatchKey) -> Batch:
        batch, features = self.read(key)
        draws = torch.from_numpy(generator("corrupted", int(key.positions[0])).random(features.shape))
        features = features.masked_fill(draws < CORRUPTED_SHARE / 2, CORRUPTED_VALUE)
        features = features.masked_fill(draws > 1 - CORRUPTED_SHARE / 2, -CORRUPTED_VALUE)
        batch["inputs"][BROKEN_MODALITY] = features
        return batch


class BrokenSamples(MultimodalDataModule):
    """1 % of the training samples have their normalised audio feature times 100 and a random label."""

    def dataset(self, split: str) -> MultimodalDataset:
        """The split, broken if it is trained on."""
        clean = super().dataset(split)
        return _Broken(clean) if split == "train" else clean  # type: ignore[return-value]


class CorruptedInputs(MultimodalDataModule):
    """5 % of the audio's input features are at plus or minus 1000."""

    def dataset(self, split: str) -> MultimodalDataset:
        """The split, corrupted."""
        return _Corrupted(super().dataset(split))  # type: ignore[return-value]
