"""A map-style data set whose item is a whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from lightning_distill.data.processor import Processor
from lightning_distill.data.sampling import BatchKey
from lightning_distill.data.source import DataSource
from lightning_distill.errors import DistillError, SampleError
from lightning_distill.structures import Batch, Inputs

_BLOCK = 256


class MultimodalDataset(Dataset[Batch | DistillError]):
    """Batches of some rows of a source.

    Args:
        source: Where samples come from.
        processors: modality -> preprocessing.
        rows: Row numbers in the source.
        seed: Of the augmentation.
        train: Augment.
        in_memory: Prepare and collate every row once, now; a batch is then one gather a tensor.
    """

    def __init__(
        self,
        source: DataSource,
        processors: Mapping[str, Processor],
        rows: NDArray[np.int64],
        seed: int,
        train: bool,
        in_memory: bool,
    ) -> None:
        table = source.samples
        self.source, self.processors, self.rows = source, processors, rows
        self.seed, self.train = seed, train
        self.sample_id = table.sample_id[rows]
        self._target = torch.from_numpy(table.target[rows])
        self._domain = torch.from_numpy(table.domain[rows])
        self._present = {m: torch.from_numpy(table.present[m][rows]) for m in processors}
        self._memory: dict[str, Inputs] = {}
        if in_memory:
            self._memory = {m: self._read_all(m) for m in processors}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: BatchKey) -> Batch | DistillError:
        try:
            return self._batch(key)
        except DistillError as error:
            if get_worker_info() is None:
                raise
            return error  # raised by `BatchLoader` in the main process

    def _batch(self, key: BatchKey) -> Batch:
        at = torch.from_numpy(key.positions)
        inputs: dict[str, Inputs] = {}
        for modality, processor in self.processors.items():
            if modality in self._memory:
                found = _gather(self._memory[modality], at)
            else:
                found = self._read(modality, key.positions)
            if self.train:
                found = processor.augment(found, self.seed, key.epoch, self.sample_id[key.positions])
            inputs[modality] = found
        return {
            "inputs": inputs,
            "present": {m: p[at] for m, p in self._present.items()},
            "target": self._target[at],
            "sample_id": torch.from_numpy(self.sample_id[key.positions]),
            "domain": self._domain[at],
        }

    def _read_all(self, modality: str) -> Inputs:
        """Collate in blocks, since spectrograms take many times their size while they are computed."""
        everything = np.arange(len(self.rows))
        first = self._read(modality, everything[:_BLOCK])
        if isinstance(first, dict):
            return self._read(modality, everything)  # texts: padded to the longest of all
        found = first.new_empty(len(everything), *first.shape[1:])
        found[:_BLOCK] = first
        for start in range(_BLOCK, len(everything), _BLOCK):
            block = self._read(modality, everything[start : start + _BLOCK])
            assert isinstance(block, torch.Tensor)
            found[start : start + _BLOCK] = block
        return found

    def _read(self, modality: str, positions: NDArray[np.int64]) -> Inputs:
        processor, present = self.processors[modality], self._present[modality]
        return processor.collate(
            [
                self._prepare(modality, processor, int(self.rows[p])) if present[p] else processor.blank()
                for p in positions
            ]
        )

    def _prepare(self, modality: str, processor: Processor, row: int) -> Any:
        raw = self.source.load(modality, row)
        try:
            return processor.prepare(raw)
        except ValueError as error:
            raise SampleError(
                where=f"{self.source.describe(row)}, {modality}",
                found=error,
                expected=f"something {type(processor).__name__} can prepare",
                fix="repair the sample, or leave its cell empty to mark it absent",
            ) from error


def _gather(stored: Inputs, at: torch.Tensor) -> Inputs:
    if isinstance(stored, dict):
        return {key: value.index_select(0, at) for key, value in stored.items()}
    return stored.index_select(0, at)
