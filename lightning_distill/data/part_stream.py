"""The contract of a stream in parts, of which each process and worker reads its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice

from lightning_distill.data.stream import StreamSample, StreamSource
from lightning_distill.errors import ManifestError


class PartStream(StreamSource):
    """A stream in parts, such as shards, of which it is known how many samples each has.

    So an epoch can be divided before anything is read. Each process takes its share of the samples, part
    after part, and reads at `readers` places of it in turn, each with a buffer of its own; the workers of a
    process share these places. What a batch holds does not depend on the number of workers, but on `readers`
    and on the number of processes. A part that two of them share is read by both, from the beginning in the
    worst case.
    """

    readers: int = 4
    """Places where each process reads; more workers than that read the same."""

    @abstractmethod
    def sizes(self, split: str) -> Sequence[int]:
        """Samples in each part of a split."""

    @abstractmethod
    def walk(self, split: str, part: int, first: int) -> Iterator[StreamSample]:
        """Walk a part from one of its samples on.

        Raises:
            DistillError: If it cannot be read; names the part.
        """

    @abstractmethod
    def part_name(self, split: str, part: int) -> str:
        """Where a part is, for errors."""

    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        """Walk all parts."""
        sizes = self.sizes(split)
        return self.piece(split, range(len(sizes)), 0, sum(sizes))

    def piece(self, split: str, order: Sequence[int], start: int, stop: int) -> Iterator[StreamSample]:
        """Walk the samples from `start` to before `stop`, with the parts in some order.

        Raises:
            ManifestError: If a part has not as many samples as it is said to have.
        """
        sizes, at = self.sizes(split), 0
        for part in order:
            size = sizes[part]
            first, last = max(start - at, 0), min(stop - at, size)
            at += size
            if first >= last:
                continue
            samples = self.walk(split, part, first)
            count = first
            for sample in islice(samples, last - first):
                count += 1
                yield sample
            more = last == size and next(samples, None) is not None
            if count < last or more:
                raise ManifestError(
                    where=self.part_name(split, part),
                    found="more samples than that" if more else f"{count} samples",
                    expected=f"{size}, as it was said to have",
                    fix="restore it, or count again",
                )
