"""Which samples make which batch: a function of (seed, epoch), the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from lightning_distill.randomness import generator


class BatchKey(NamedTuple):
    """One batch: the epoch it belongs to, its positions in the data set, and its number in the epoch."""

    epoch: int
    positions: NDArray[np.int64]
    number: int = 0


@dataclass(frozen=True)
class Extra:
    """Samples, usually the few labelled ones, of which every training batch gets some more.

    Attributes:
        positions: In the data set.
        per_batch: How many a batch gets, drawn without replacement where there are enough.
    """

    positions: NDArray[np.int64]
    per_batch: int

    def draw(self, *key: int) -> NDArray[np.int64]:
        """Some of the positions, a function of the key."""
        rng = generator("extra", *key)
        return rng.choice(self.positions, self.per_batch, replace=self.per_batch > len(self.positions))


@dataclass(frozen=True)
class Plan:
    """How an epoch of training is drawn: every sample once, in a new order each time.

    Attributes:
        extra: Samples to add to each batch, on top of its `batch_size`.
    """

    extra: Extra | None = None

    def order(self, size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """Positions in the data set, as many as it has samples."""
        return generator(seed, "order", epoch).permutation(size)


@dataclass(frozen=True)
class BalancedPlan(Plan):
    """Every group as often as any other: small ones come again, of large ones some wait for a later epoch.

    Groups take turns in rounds, each round in a new order. Within a group every sample comes once before one
    comes again.

    Attributes:
        groups: Positions of each group's samples.
    """

    groups: tuple[NDArray[np.int64], ...] = ()

    def order(self, size: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """Positions in the data set, as many as it has samples."""
        rng = generator(seed, "balanced order", epoch)
        count = len(self.groups)
        rounds = -(-size // count)
        turn = rng.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1).ravel()
        order = np.empty(rounds * count, np.int64)
        for at, group in enumerate(self.groups):
            shuffles = [rng.permutation(group) for _ in range(-(-rounds // len(group)))]
            order[turn == at] = np.concatenate(shuffles)[:rounds]
        return order[:size]


class BatchSampler(DistributedSampler[BatchKey]):
    """Yields whole batches as keys, so that a data set can gather a batch at once.

    Give it to a DataLoader as `sampler` with `batch_size=None`. Lightning tells the epoch. Every rank draws
    the same order and takes its own part. While training, the last samples are left out so that all ranks do
    the same number of steps; otherwise every sample is in exactly one batch of one rank. It is a
    DistributedSampler because Lightning would divide what any other sampler yields among the ranks once more.

    Args:
        size: Samples in the data set.
        batch_size: Samples a batch and rank.
        seed: Of the order.
        train: Draw by `plan`, and keep the ranks even.
        rank: Of this process.
        world_size: Number of processes.
        first: Epoch and batch to start with; later epochs start with their first batch.
        plan: How to draw.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        train: bool,
        rank: int = 0,
        world_size: int = 1,
        first: tuple[int, int] = (0, 0),
        plan: Plan = Plan(),
    ) -> None:
        super().__init__(range(size), world_size, rank, shuffle=train, seed=seed)  # type: ignore[arg-type]
        self.size, self.batch_size, self.train, self.world_size = size, batch_size, train, world_size
        self.first, self.plan = first, plan
        self.set_epoch(first[0])

    def positions(self) -> NDArray[np.int64]:
        """This rank's samples of this epoch, in order."""
        order = np.arange(self.size)
        if self.train:
            order = self.plan.order(self.size, self.seed, self.epoch)
            order = order[: self.size - self.size % self.world_size]
        return order[self.rank :: self.world_size]

    def __len__(self) -> int:
        size = self.size // self.world_size
        if not self.train and self.rank < self.size % self.world_size:
            size += 1
        return -(-size // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        positions = self.positions()
        first = self.first[1] if self.epoch == self.first[0] else 0
        for number in range(first, len(self)):
            start = number * self.batch_size
            chosen = positions[start : start + self.batch_size]
            if self.plan.extra is not None:
                more = self.plan.extra.draw(self.seed, self.epoch, start, self.rank)
                chosen = np.concatenate([chosen, more])
            yield BatchKey(self.epoch, chosen, number)
