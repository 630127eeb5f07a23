"""A map-style data set whose item is a whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lightning_distill.data.bad_samples import BadSample, BadSampleLog, Substituted
from lightning_distill.data.processor import Processor
from lightning_distill.data.reading import Facts, Part, Reading, told_when
from lightning_distill.data.sampling import BatchKey
from lightning_distill.data.source import DataSource
from lightning_distill.data.token_processor import TokenProcessor
from lightning_distill.data.token_store import TokenStore
from lightning_distill.errors import ConfigError, DistillError, SampleError
from lightning_distill.randomness import View, generator
from lightning_distill.structures import UNKNOWN, UNLABELLED, Batch, Inputs

_BLOCK: Final = 256
_TRIES: Final = 20
"""Samples that are tried as a substitute before the first error counts."""


class MultimodalDataset(Dataset[Batch | DistillError | Substituted]):
    """Batches of some rows of a source. A text is loaded and tokenised once: its tokens are kept.

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
        self._tokens = {
            part: TokenStore(processor, len(rows))
            for part, processor in reading.parts()
            if isinstance(processor, TokenProcessor) and not processor.varies
        }
        self._memory: dict[Part, Tensor | list[Any]] = {}
        """All else that was read into memory; a list where samples of a batch are padded to each other."""
        self._stands_for: NDArray[np.int64] | None = None
        self._replaced: NDArray[np.bool_] | None = None
        if reading.in_memory:
            self._read_all()

    def leave_out(self, parts: Collection[Part]) -> None:
        """Read and give these no more.

        Args:
            parts: (`inputs` or `teacher_inputs`, modality), not all of them.
        """
        self.reading = self.reading.without(parts)
        self._memory = {part: stored for part, stored in self._memory.items() if part not in parts}
        self._tokens = {part: stored for part, stored in self._tokens.items() if part not in parts}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Content id of each sample."""
        return self.source.samples.sample_id[self.rows]

    def lengths(self, modality: str) -> NDArray[np.int64]:
        """Tokens of each sample's text, 0 for a text that cannot be read; all are tokenised and kept.

        Raises:
            ConfigError: If the modality is no text that is read.
        """
        part = next((part for part in self._tokens if part[1] == modality), None)
        if part is None:
            raise ConfigError(
                where=f"lengths of {modality!r}",
                found="no texts of that modality",
                expected=f"one of {sorted({m for _, m in self._tokens})}",
                fix="name the modality of the texts, or use another sampling",
            )
        store, others = self._tokens[part], {other for other, _ in self.reading.parts()} - {part}
        for start in range(0, len(self), _BLOCK):
            block = np.arange(start, min(start + _BLOCK, len(self)))
            found: dict[int, Any] = {}
            for position in block[~store.has(block)].tolist():
                with contextlib.suppress(SampleError):  # told when the sample is read
                    found[position] = self._prepare(position, 0, others)[part]
            if found:
                store.add(np.array(list(found)), list(found.values()))
        return store.length(self._stands_for if self._stands_for is not None else np.arange(len(self)))

    def alike(self, position: int) -> Sequence[int]:
        """Positions of the samples that may stand in for this one; here all."""
        return range(len(self))

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
        if self._stands_for is not None:
            assert self._replaced is not None
            at, replaced = self._stands_for[key.positions], self._replaced[key.positions]
            found = {part: self._recalled(part, processor, at) for part, processor in self.reading.parts()}
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
        batch = self.reading.batch(found, facts, key.shown)
        return Substituted(batch, tuple(records)) if records else batch

    # -- reading --------------------------------------------------------------------------------------

    def _read(self, key: BatchKey) -> tuple[dict[Part, Inputs], NDArray[np.int64], list[BadSample]]:
        """The collated tensors, the positions that were read in the end, and what was bad."""
        samples, at, records = self._samples(key)
        found = {
            part: self._tokens[part].batch(at, _there(part, samples))
            if part in self._tokens
            else processor.collate([sample[part] for sample in samples])
            for part, processor in self.reading.parts()
        }
        return found, at, records

    def _samples(self, key: BatchKey) -> tuple[list[dict[Part, Any]], NDArray[np.int64], list[BadSample]]:
        """The prepared samples without known tokens, the positions read in the end, and what was bad."""
        at, records = key.positions.copy(), []
        samples: list[dict[Part, Any]] = [{}] * len(at)
        for place in self._unread(at):
            position = int(at[place])
            try:
                samples[place] = self._prepare(position, key.shown)
            except SampleError as error:
                if not self.reading.substitute:
                    raise
                at[place], samples[place] = self._substitute(position, key.shown, error)
                instead = self.source.describe(int(self.rows[at[place]]))
                split, found = self.reading.split, error.found
                records.append(BadSample(split, key.epoch, key.number, error.where, found, instead))
        return samples, at, records

    def _unread(self, positions: NDArray[np.int64]) -> list[int]:
        """Places of a batch of which anything has to be read."""
        if any(part not in self._tokens for part, _ in self.reading.parts()):
            return list(range(len(positions)))
        known = np.logical_and.reduce([store.has(positions) for store in self._tokens.values()])
        return [int(place) for place in np.flatnonzero(~known)]

    def _prepare(self, position: int, view: int, known: Collection[Part] = ()) -> dict[Part, Any]:
        """One sample, every modality loaded once and prepared for student and teacher."""
        row = int(self.rows[position])
        self._note(row)
        known = {*known, *(part for part, store in self._tokens.items() if store.has(position))}
        table = self.source.samples
        there = [modality for modality in self.reading.modalities if table.present[modality][row]]
        return self.reading.prepare(
            there,
            lambda modality: self.source.load(modality, row),
            lambda: self.source.describe(row),
            View(self.reading.seed, self.reading.view_in(view), int(table.sample_id[row])),
            known,
        )

    def _substitute(self, position: int, view: int, error: SampleError) -> tuple[int, dict[Part, Any]]:
        """Another sample that can be read, a function of (seed, view, position)."""
        rng, alike = generator("substitute", self.reading.seed, view, position), self.alike(position)
        for other in (alike[at] for at in rng.integers(len(alike), size=_TRIES).tolist()):
            try:
                return other, self._prepare(other, view)
            except SampleError:
                continue
        raise error

    def _read_all(self) -> None:
        """Collate in blocks, since spectrograms take many times their size while they are computed."""
        everything = np.arange(len(self))
        stands_for, records = everything.copy(), []
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            samples, stands_for[block], bad = self._samples(BatchKey(0, everything[block]))
            records += bad
            for part, processor in self.reading.parts():
                new = _there(part, samples)
                if part not in self._tokens:
                    self._remember(part, block, processor, list(new.values()))
                elif new:
                    self._tokens[part].add(stands_for[block][list(new)], list(new.values()))
        self._stands_for, self._replaced = stands_for, stands_for != everything
        self.records = tuple(records)

    def _remember(self, part: Part, block: slice, processor: Processor, prepared: list[Any]) -> None:
        stored = self._memory.get(part)
        if isinstance(stored, list):
            stored += prepared
            return
        found = processor.collate(prepared)
        if isinstance(found, dict):
            self._memory[part] = prepared
            return
        if stored is None:
            stored = self._memory[part] = found.new_empty(len(self), *found.shape[1:])
        stored[block] = found

    def _recalled(self, part: Part, processor: Processor, at: NDArray[np.int64]) -> Inputs:
        if part in self._tokens:
            return self._tokens[part].batch(at)
        stored = self._memory[part]
        if isinstance(stored, list):
            return processor.collate([stored[position] for position in at.tolist()])
        return stored.index_select(0, torch.from_numpy(at))

    def _note(self, row: int) -> None:
        worker = get_worker_info()
        if self.watch is not None and worker is not None:
            self.watch[worker.id] = row


def _there(part: Part, samples: list[dict[Part, Any]]) -> dict[int, Any]:
    """Place -> a part of the samples that have it."""
    return {place: sample[part] for place, sample in enumerate(samples) if part in sample}


def _forget(target: Tensor, rows: Tensor) -> None:
    """Take the labels of some rows away: a substitute must not be counted twice."""
    unknown = torch.nan if target.is_floating_point() else UNKNOWN if target.ndim == 2 else UNLABELLED
    target[rows] = unknown
