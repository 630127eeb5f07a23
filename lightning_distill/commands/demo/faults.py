"""Data as they come in practice: broken training samples, corrupted inputs at test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.commands.demo.constants import (
    BROKEN_FACTOR,
    BROKEN_MODALITY,
    BROKEN_SHARE,
    CORRUPTED_SHARE,
    CORRUPTED_VALUE,
)
from lightning_distill.data import BatchKey, MultimodalDataModule, MultimodalDataset
from lightning_distill.data.reading import Reading
from lightning_distill.randomness import generator, uniform
from lightning_distill.structures import Batch


class _Broken(MultimodalDataset):
    def __getitem__(self, key: BatchKey) -> Any:
        batch = super().__getitem__(key)
        if not isinstance(batch, dict):
            return batch
        features = _feature(batch)
        draws = uniform(0, 0, batch["sample_id"].numpy(), "broken", 2)
        broken = torch.from_numpy(draws[:, 0] < BROKEN_SHARE)
        label = torch.from_numpy((draws[:, 1] * 10).astype(np.int64))
        batch["inputs"][BROKEN_MODALITY] = torch.where(
            broken[:, None, None], features * BROKEN_FACTOR, features
        )
        batch["target"] = torch.where(broken, label, batch["target"])
        return batch


class _Corrupted(MultimodalDataset):
    def __getitem__(self, key: BatchKey) -> Any:
        batch = super().__getitem__(key)
        if not isinstance(batch, dict):
            return batch
        features = _feature(batch)
        draws = torch.from_numpy(generator("corrupted", int(key.positions[0])).random(features.shape))
        features = features.masked_fill(draws < CORRUPTED_SHARE / 2, CORRUPTED_VALUE)
        features = features.masked_fill(draws > 1 - CORRUPTED_SHARE / 2, -CORRUPTED_VALUE)
        batch["inputs"][BROKEN_MODALITY] = features
        return batch


def _feature(batch: Batch) -> Tensor:
    feature = batch["inputs"][BROKEN_MODALITY]
    assert isinstance(feature, Tensor)
    return feature


class BrokenSamples(MultimodalDataModule):
    """1 % of the training samples have their normalised audio feature times 100 and a random label."""

    def make_dataset(self, rows: NDArray[np.int64], reading: Reading) -> MultimodalDataset:
        """The split, broken if it is trained on."""
        return (_Broken if reading.train else MultimodalDataset)(self.indexed, rows, reading)


class CorruptedInputs(MultimodalDataModule):
    """5 % of the audio's input features are at plus or minus 1000."""

    def make_dataset(self, rows: NDArray[np.int64], reading: Reading) -> MultimodalDataset:
        """The split, corrupted."""
        return _Corrupted(self.indexed, rows, reading)
