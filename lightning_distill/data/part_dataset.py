"""A stream in parts as batches, each reader at a place of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lightning_distill.data.part_stream import PartStream
from lightning_distill.data.reading import Reading
from lightning_distill.data.stream import StreamSample
from lightning_distill.data.stream_dataset import StreamCursor, StreamDataset, StreamSampler, shuffled
from lightning_distill.errors import ManifestError, SampleError
from lightning_distill.randomness import generator


class PartKey(NamedTuple):
    """One batch: the samples from `start` to `stop` of a run of samples, which one reader walks."""

    epoch: int
    number: int
    start: int
    stop: int
    run: tuple[int, int]


class PartSampler(StreamSampler):
    """Yields the batches of a rank, taken in turn from the runs its samples are divided into.

    While training, all batches are full and all ranks do the same number of steps; the last samples of an
    epoch are left out, others each time. Otherwise every sample is in one batch, and ranks do the same number
    of steps if a batch can hold more than one.

    Args:
        size: Samples in the stream.
        readers: Runs a rank has.
        batch_size: Samples a batch and rank.
        train: Whether only full batches count.
        rank: Of this process.
        world_size: Number of processes.
        first: Epoch and batch to start with.
    """

    def __init__(
        self,
        size: int,
        readers: int,
        batch_size: int,
        train: bool,
        rank: int = 0,
        world_size: int = 1,
        first: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(batch_size, train, rank, world_size, first)
        self.readers = readers
        if train:
            self._count = size // (batch_size * world_size)
            self._start = rank * self._count * batch_size
            self._size = self._count * batch_size
        else:
            self._start, stop = (size * at // world_size for at in (rank, rank + 1))
            self._size = stop - self._start
            most = self._size if batch_size == 1 else -(-size // world_size)
            self._count = -(-most // batch_size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PartKey]:  # type: ignore[override]
        each, more = divmod(self._count, self.readers)
        for number in range(self.first[1] if self.epoch == self.first[0] else 0, self._count):
            at, reader = divmod(number, self.readers)
            begin = reader * each + min(reader, more)
            run = (self._bound(begin), self._bound(begin + each + (reader < more)))
            start, stop = self._bound(begin + at), self._bound(begin + at + 1)
            yield PartKey(self.epoch, number, start, stop, run)

    def _bound(self, batch: int) -> int:
        """Where a batch begins. A rank with a sample less takes it from its last batches."""
        return self._start + min(batch * self.batch_size, self._size - self._count + batch)


class PartDataset(StreamDataset):
    """Batches of a split of a `PartStream`.

    Args:
        source: The samples.
        reading: How to read them.
    """

    source: PartStream

    def __init__(self, source: PartStream, reading: Reading) -> None:
        super().__init__(source, reading)
        self._cursors: dict[tuple[int, int], StreamCursor] = {}

    def __getstate__(self) -> dict[str, object]:
        """Another process walks by itself."""
        return {**super().__getstate__(), "_cursors": {}}

    def _samples(self, key: PartKey) -> list[StreamSample]:  # type: ignore[override]
        here = (key.epoch, os.getpid())
        self._cursors = {run: c for run, c in self._cursors.items() if (c.epoch, c.process) == here}
        cursor = self._cursors.pop(key.run, None)
        if cursor is None or cursor.at > key.start:
            cursor = StreamCursor(*here, self._run(key.epoch, *key.run), key.run[0])
        cursor.skip(key.start)
        found = cursor.take(key.stop)
        if key.stop == key.run[1]:
            next(cursor.samples, None)  # its last part is looked at to the end
        else:
            self._cursors[key.run] = cursor
        return found

    def _run(self, epoch: int, start: int, stop: int) -> Iterator[StreamSample]:
        source, split, seed = self.source, self.reading.split, self.reading.seed
        order: Sequence[int] = range(len(source.sizes(split)))
        if self.reading.train:
            order = generator("part order", seed, epoch).permutation(len(order)).tolist()
        samples = map(self._checked, source.piece(split, order, start, stop))
        if not self.reading.train:
            return samples
        buffer = -(-source.buffer // source.readers)
        return shuffled(samples, buffer, generator("part buffer", seed, epoch, start))

    def _checked(self, sample: StreamSample) -> StreamSample:
        """A sample that were passed over would leave a batch short, on one rank only."""
        if not any(modality in sample.raw for modality in self.reading.processors):
            raise SampleError(
                where=sample.place,
                found="none of the modalities " + ", ".join(self.reading.processors),
                expected="at least one in each sample",
                fix="check their names, or leave such samples out when the data are written",
            )
        return sample


def part_loading(
    source: PartStream,
    reading: Reading,
    batch_size: int,
    place: tuple[int, int],
    first: tuple[int, int],
) -> tuple[PartDataset, PartSampler]:
    """What a loader of a split needs.

    Args:
        source: The samples.
        reading: How to read them.
        batch_size: Samples a batch and rank.
        place: Rank and number of ranks.
        first: Epoch and batch to start with.

    Raises:
        ManifestError: If there is not a batch for every rank in training, or not a sample in evaluation.
    """
    size = sum(source.sizes(reading.split))
    needed = place[1] * (batch_size if reading.train else 1)
    if size < needed:
        raise ManifestError(
            where=f"{type(source).__name__}, split {reading.split!r}",
            found=f"{size} samples for {place[1]} processes"
            + (f" with batches of {batch_size}" if reading.train else ""),
            expected=f"at least {needed}",
            fix="use smaller batches, fewer devices, or more data",
        )
    sampler = PartSampler(size, source.readers, batch_size, reading.train, *place, first)
    return PartDataset(source, reading), sampler
