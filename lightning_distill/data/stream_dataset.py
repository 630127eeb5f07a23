"""A stream as the same batches for any number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, get_worker_info

from lightning_distill.data.bad_samples import BadSample, BadSampleLog
from lightning_distill.data.reading import Facts, Reading, told_when
from lightning_distill.data.stream import StreamSample, StreamSource
from lightning_distill.errors import DistillError
from lightning_distill.randomness import View, generator
from lightning_distill.structures import Batch


class StreamKey(NamedTuple):
    """One batch: its epoch, its number in the epoch, and its samples by their positions in the stream.

    The batch counts only if the stream has `needed` samples.
    """

    epoch: int
    number: int
    start: int
    stop: int
    needed: int


class StreamEnd:
    """What a data set gives for batches after the last."""


class StreamSampler(DistributedSampler[StreamKey]):
    """Yields keys without end; ranks take batches in turns.

    While training, batches count in groups of one a rank, so that all ranks do the same number of steps; the
    samples of the last group are left out if they do not fill it. Otherwise every sample is in one batch.

    Args:
        batch_size: Samples a batch and rank.
        train: Whether ranks are kept even.
        rank: Of this process.
        world_size: Number of processes.
        first: Epoch and batch to start with; later epochs start with their first batch.
    """

    def __init__(
        self,
        batch_size: int,
        train: bool,
        rank: int = 0,
        world_size: int = 1,
        first: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(range(world_size), world_size, rank, shuffle=train)  # type: ignore[arg-type]
        self.batch_size, self.train, self.world_size, self.first = batch_size, train, world_size, first
        self.set_epoch(first[0])

    def __len__(self) -> int:
        raise TypeError("how many batches a stream has is not known")

    def __iter__(self) -> Iterator[StreamKey]:
        # Lightning asks for a batch in advance, and may tell another epoch before it asks for the next.
        epoch, size, world = self.epoch, self.batch_size, self.world_size
        for number in count(self.first[1] if epoch == self.first[0] else 0):
            start = (number * world + self.rank) * size
            needed = (number + 1) * world * size if self.train else start + 1
            yield StreamKey(epoch, number, start, start + size, needed)


@dataclass
class StreamCursor:
    """A walk through an epoch: the process that walks, and how many samples it has passed."""

    epoch: int
    process: int
    samples: Iterator[StreamSample]
    at: int = 0

    def take(self, upto: int) -> list[StreamSample]:
        """The samples before a position."""
        taken = list(islice(self.samples, upto - self.at))
        self.at = upto
        return taken

    def skip(self, upto: int) -> int:
        """Pass over samples; tells how many there were."""
        passed = sum(1 for _ in islice(self.samples, upto - self.at))
        self.at = upto
        return passed


class StreamDataset(Dataset[Batch | DistillError | StreamEnd]):
    """Batches of a split of a stream.

    Each worker walks the whole stream, but decodes and prepares only the samples of its own batches: so the
    batches do not depend on the number of workers. Samples without any of the student's modalities are passed
    over.

    Args:
        source: The samples.
        reading: How to read them.
    """

    def __init__(self, source: StreamSource, reading: Reading) -> None:
        self.source, self.reading = source, reading
        self.watch: Tensor | None = None
        """int64 "worker", shared memory: the position each worker is reading."""
        self.log: BadSampleLog | None = None
        """Where bad samples are recorded."""
        self.records: tuple[BadSample, ...] = ()
        self._cursor: StreamCursor | None = None

    def __getitem__(self, key: StreamKey) -> Batch | DistillError | StreamEnd:
        try:
            samples = self._samples(key)
            return self._batch(key, samples) if samples else StreamEnd()
        except DistillError as error:
            self._cursor = None
            told = told_when(error, key.epoch, key.number)
            if get_worker_info() is None:
                raise told from error
            return told  # raised by `BatchLoader` in the main process

    def __getstate__(self) -> dict[str, Any]:
        """Another process walks by itself."""
        return {**self.__dict__, "_cursor": None}

    def _samples(self, key: StreamKey) -> list[StreamSample]:
        cursor = self._cursor
        if (
            cursor is None
            or (cursor.epoch, cursor.process) != (key.epoch, os.getpid())
            or cursor.at > key.start
        ):
            cursor = self._cursor = StreamCursor(key.epoch, os.getpid(), self._order(key.epoch))
        cursor.skip(key.start)
        samples = cursor.take(key.stop)
        there = len(samples)
        if key.needed > key.stop:
            there += cursor.skip(key.needed)
        return samples if key.start + there >= key.needed else []

    def _order(self, epoch: int) -> Iterator[StreamSample]:
        everything = self.source.stream(self.reading.split, epoch)
        usable = (sample for sample in everything if any(m in sample.raw for m in self.reading.processors))
        if not self.reading.train:
            return usable
        return shuffled(usable, self.source.buffer, generator(self.reading.seed, "stream order", epoch))

    def _batch(self, key: StreamKey, samples: list[StreamSample]) -> Batch:
        prepared = []
        for position, sample in enumerate(samples, key.start):
            self._note(position)
            view = View(self.reading.seed, key.epoch, sample.sample_id)
            prepared.append(self._prepare(sample, view))
        weights = [sample.weight for sample in samples if sample.weight is not None]
        facts = Facts(
            present={m: np.array([m in sample.raw for sample in samples]) for m in self.reading.modalities},
            target=torch.from_numpy(np.stack([sample.target for sample in samples])),
            sample_id=np.array([sample.sample_id for sample in samples], np.int64),
            domain=np.array([sample.domain for sample in samples], np.int64),
            weight=np.array(weights, np.float32) if weights else None,
        )
        return self.reading.batch(self.reading.collate(prepared), facts, key.epoch)

    def _prepare(self, sample: StreamSample, view: View) -> dict[tuple[str, str], Any]:
        return self.reading.prepare(
            sample.raw, lambda modality: self.source.load(sample, modality), lambda: sample.place, view
        )

    def _note(self, position: int) -> None:
        worker = get_worker_info()
        if self.watch is not None and worker is not None:
            self.watch[worker.id] = position


def shuffled(
    samples: Iterable[StreamSample], buffer: int, rng: np.random.Generator
) -> Iterator[StreamSample]:
    """Draw each sample from the next `buffer` that are waiting, an order that depends on `rng` alone."""
    waiting: list[StreamSample] = []
    for sample in samples:
        if len(waiting) < buffer:
            waiting.append(sample)
            continue
        at = int(rng.integers(buffer))
        yield waiting[at]
        waiting[at] = sample
    for at in rng.permutation(len(waiting)):
        yield waiting[at]
