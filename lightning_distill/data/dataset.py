"""A map-style data set whose item is a whole batch."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lightning_distill.data.bad_samples import BadSample, BadSampleLog, Substituted
from lightning_distill.data.reading import Facts, Part, Reading, told_when
from lightning_distill.data.sampling import BatchKey
from lightning_distill.data.source import DataSource
from lightning_distill.errors import DistillError, SampleError
from lightning_distill.randomness import View, generator
from lightning_distill.structures import UNKNOWN, UNLABELLED, Batch, Inputs

_BLOCK: Final = 256
_TRIES: Final = 20
"""Samples that are tried as a substitute before the first error counts."""


class MultimodalDataset(Dataset[Batch | DistillError | Substituted]):
    """Batches of some rows of a source.

    Args:
        source: Where samples come from.
        rows: Row numbers in the source.
        reading: How to read them.
    """

    def __init__(self, source: DataSource, rows: NDArray[np.int64], reading: Reading) -> None:
        self.source, self.reading = source, reading
        self.rows = rows.astype(np.int32) if len(source.samples) < 2**31 else rows
        self.watch: Tensor | None = None
        """int64 "worker", shared memory: the row each worker is reading, so that a dead one can be asked."""
        self.log: BadSampleLog | None = None
        """Where bad samples are recorded."""
        self.records: tuple[BadSample, ...] = ()
        """Bad samples met while everything was read into memory."""
        self._memory: dict[Part, Inputs] = {}
        self._stands_for: NDArray[np.int64] | None = None
        self._replaced: NDArray[np.bool_] | None = None
        if reading.in_memory:
            self._read_all()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Content id of each sample."""
        return self.source.samples.sample_id[self.rows]

    def __getitem__(self, key: BatchKey) -> Batch | DistillError | Substituted:
        try:
            return self._batch(key)
        except DistillError as error:
            told = told_when(error, key.epoch, key.number)
            if get_worker_info() is None:
                raise told from error
            return told  # raised by `BatchLoader` in the main process

    def _batch(self, key: BatchKey) -> Batch | Substituted:
        records: list[BadSample] = []
        if self._memory:
            assert self._stands_for is not None
            assert self._replaced is not None
            at, replaced = self._stands_for[key.positions], self._replaced[key.positions]
            found = {part: _gather(stored, torch.from_numpy(at)) for part, stored in self._memory.items()}
        else:
            found, at, records = self._read(key)
            replaced = at != key.positions
        table, rows = self.source.samples, self.rows[at]
        target = torch.from_numpy(table.target[rows])
        if not self.reading.train and replaced.any():
            _forget(target, torch.from_numpy(replaced))
        facts = Facts(
            present={m: table.present[m][rows] for m in self.reading.modalities},
            target=target,
            sample_id=table.sample_id[rows],
            domain=table.domain[rows],
            weight=table.weight[rows] if len(table.weight) else None,
        )
        batch = self.reading.batch(found, facts, key.epoch)
        return Substituted(batch, tuple(records)) if records else batch

    # -- reading --------------------------------------------------------------------------------------

    def _read(self, key: BatchKey) -> tuple[dict[Part, Inputs], NDArray[np.int64], list[BadSample]]:
        """The collated tensors, the positions that were read in the end, and what was bad."""
        samples, at, records = self._samples(key)
        return self.reading.collate(samples), at, records

    def _samples(self, key: BatchKey) -> tuple[list[dict[Part, Any]], NDArray[np.int64], list[BadSample]]:
        """The prepared samples, the positions that were read in the end, and what was bad."""
        at, records, samples = key.positions.copy(), [], []
        for place, position in enumerate(key.positions.tolist()):
            try:
                samples.append(self._prepare(position, key.epoch))
            except SampleError as error:
                if not self.reading.substitute:
                    raise
                at[place], sample = self._substitute(position, key.epoch, error)
                samples.append(sample)
                instead = self.source.describe(int(self.rows[at[place]]))
                split, found = self.reading.split, error.found
                records.append(BadSample(split, key.epoch, key.number, error.where, found, instead))
        return samples, at, records

    def _prepare(self, position: int, epoch: int) -> dict[Part, Any]:
        """One sample, every modality loaded once and prepared for student and teacher."""
        row = int(self.rows[position])
        self._note(row)
        table = self.source.samples
        there = [modality for modality in self.reading.modalities if table.present[modality][row]]
        return self.reading.prepare(
            there,
            lambda modality: self.source.load(modality, row),
            lambda: self.source.describe(row),
            View(self.reading.seed, epoch, int(table.sample_id[row])),
        )

    def _substitute(self, position: int, epoch: int, error: SampleError) -> tuple[int, dict[Part, Any]]:
        """Another sample that can be read, a function of (seed, epoch, position)."""
        rng = generator("substitute", self.reading.seed, epoch, position)
        for other in rng.integers(len(self), size=_TRIES).tolist():
            try:
                return other, self._prepare(other, epoch)
            except SampleError:
                continue
        raise error

    def _read_all(self) -> None:
        """Collate in blocks, since spectrograms take many times their size while they are computed."""
        everything = np.arange(len(self))
        self._stands_for = everything.copy()
        records: list[BadSample] = []
        texts: dict[Part, list[Any]] = {}  # collated at the end, padded to the longest of all
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            samples, self._stands_for[block], bad = self._samples(BatchKey(0, everything[block]))
            records += bad
            for part, processor in self.reading.parts():
                prepared = [sample[part] for sample in samples]
                if part in texts:
                    texts[part] += prepared
                    continue
                found = processor.collate(prepared)
                if isinstance(found, dict):
                    texts[part] = prepared
                    continue
                if part not in self._memory:
                    self._memory[part] = found.new_empty(len(self), *found.shape[1:])
                self._memory[part][block] = found  # type: ignore[index]
        for part, processor in self.reading.parts():
            if part in texts:
                self._memory[part] = processor.collate(texts[part])
        self._replaced = self._stands_for != everything
        self.records = tuple(records)

    def _note(self, row: int) -> None:
        worker = get_worker_info()
        if self.watch is not None and worker is not None:
            self.watch[worker.id] = row


def _forget(target: Tensor, rows: Tensor) -> None:
    """Take the labels of some rows away: a substitute must not be counted twice."""
    unknown = torch.nan if target.is_floating_point() else UNKNOWN if target.ndim == 2 else UNLABELLED
    target[rows] = unknown


def _gather(stored: Inputs, at: Tensor) -> Inputs:
    if isinstance(stored, dict):
        return {key: value.index_select(0, at) for key, value in stored.items()}
    return stored.index_select(0, at)
