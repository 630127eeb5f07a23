"""Which samples of several domains make which batch: a function of (seed, epoch), without a state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from lightning_distill.data.pairing import Draw
from lightning_distill.data.sampling import BatchKey, BatchSampler


class DomainSampler(DistributedSampler[BatchKey]):
    """Batches with rows of every domain, domain after domain.

    In training, where domain d has c_d batches a pass and an epoch S = max_d c_d of them, batch n of epoch e
    holds batch (e S + n) mod c_d of pass (e S + n) div c_d of d: an epoch is one pass over the domain with
    the most batches, and all others are drawn again, pass after pass, each in a new order. The random view is
    numbered by the passes of the domain with the fewest batches, (e S + n) div min_d c_d, so that a sample
    that comes again within an epoch is shown anew.

    In evaluation every sample comes once. All ranks make max_d ceil(ceil(size_d / world) / batch_size_d)
    batches, or fewer where a rank would get an empty one; each domain's rows are spread evenly over them, so
    that terms between domains have both sides to compare.

    Args:
        domains: One sampler a domain, in the order of the data set; each with its own batch size and plan.
        first: Epoch and batch to start with; later epochs start with their first batch.
        draw: In training, gives each row its partner, see `Pairing`; `domains` are then the sources alone.

    >>> domains = [BatchSampler(size, 2, seed=0, train=False) for size in (5, 2)]
    >>> [key.positions.tolist() for key in DomainSampler(domains)]
    [[0, 1, 5], [2, 3], [4, 6]]
    """

    def __init__(
        self, domains: Sequence[BatchSampler], first: tuple[int, int] = (0, 0), draw: Draw | None = None
    ) -> None:
        self.domains, self.first, self.draw = tuple(domains), first, draw
        sizes = [domain.size for domain in domains]
        self.starts = np.cumsum([0, *sizes])
        one = domains[0]
        self.train, self.world_size = one.train, one.world_size
        whole = range(sum(sizes))
        super().__init__(whole, one.world_size, one.rank, shuffle=one.train, seed=one.seed)  # type: ignore[arg-type]
        self.set_epoch(first[0])

    def __len__(self) -> int:
        if self.train:
            return max(len(domain) for domain in self.domains)
        shares = [(-(-domain.size // self.world_size), domain.batch_size) for domain in self.domains]
        fewest = int(self.starts[-1]) // self.world_size
        return min(max(-(-most // batch_size) for most, batch_size in shares), max(fewest, 1))

    def __iter__(self) -> Iterator[BatchKey]:
        first = self.first[1] if self.epoch == self.first[0] else 0
        return self._training(self.epoch, first) if self.train else self._evaluation(self.epoch, first)

    def _training(self, epoch: int, first: int) -> Iterator[BatchKey]:
        steps, fewest = len(self), min(len(domain) for domain in self.domains)
        passes = [_passes(domain, epoch * steps + first) for domain in self.domains]
        for number in range(first, steps):
            drawn = [start + next(own) for start, own in zip(self.starts[:-1], passes, strict=True)]
            positions = np.concatenate(drawn)
            if self.draw is not None:
                partners = self.draw(positions, (self.seed, epoch, number, self.rank))
                positions = np.concatenate([positions, self.starts[-1] + partners])
            yield BatchKey(epoch, positions, number, (epoch * steps + number) // fewest)

    def _evaluation(self, epoch: int, first: int) -> Iterator[BatchKey]:
        count, extra, parts = len(self), 0, []
        for start, stop in zip(self.starts[:-1], self.starts[1:], strict=True):
            # Dealt out over all domains in turns, so that no rank goes without.
            own = np.arange(start + (self.rank - start) % self.world_size, stop, self.world_size)
            sizes = np.full(count, len(own) // count)
            # Larger parts begin where those of the last domain ended, so that no batch is empty.
            sizes[(extra + np.arange(len(own) % count)) % count] += 1
            extra += len(own) % count
            parts.append(np.split(own, np.cumsum(sizes)[:-1]))
        for number in range(first, count):
            yield BatchKey(epoch, np.concatenate([part[number] for part in parts]), number)


def _passes(sampler: BatchSampler, number: int) -> Iterator[NDArray[np.int64]]:
    """The positions of one batch after the other, pass after pass, without end."""
    while True:
        turn, at = divmod(number, len(sampler))
        one = copy(sampler)
        one.first = (turn, at)
        one.set_epoch(turn)
        yield from (key.positions for key in one)
        number = (turn + 1) * len(sampler)
