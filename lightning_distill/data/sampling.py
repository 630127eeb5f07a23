"""Which samples make which batch: a function of (seed, epoch), the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from lightning_distill.randomness import generator

_POOL: Final = 50
"""Steps whose samples are sorted by length together: the more, the less is padded and the less is random."""


class BatchKey(NamedTuple):
    """One batch.

    Attributes:
        epoch: It belongs to.
        positions: In the data set.
        number: In the epoch.
        view: Number of the random view that samples show; None is the epoch's.
    """

    epoch: int
    positions: NDArray[np.int64]
    number: int = 0
    view: int | None = None

    @property
    def shown(self) -> int:
        """Number of the random view."""
        return self.epoch if self.view is None else self.view


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

    def order(self, size: int, seed: int, epoch: int, step: int) -> NDArray[np.int64]:
        """Positions in the data set, as many as it has samples.

        Args:
            size: Samples in the data set.
            seed: Of the run.
            epoch: Number of the epoch.
            step: Samples of one step of all ranks. Each `step` of them go into one batch a rank, dealt out in
                turns; what is left makes the last step.
        """
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

    def order(self, size: int, seed: int, epoch: int, step: int) -> NDArray[np.int64]:
        """Classes in turns, whatever the steps."""
        rng = generator(seed, "balanced order", epoch)
        count = len(self.groups)
        rounds = -(-size // count)
        turn = rng.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1).ravel()
        order = np.empty(rounds * count, np.int64)
        for at, group in enumerate(self.groups):
            shuffles = [rng.permutation(group) for _ in range(-(-rounds // len(group)))]
            order[turn == at] = np.concatenate(shuffles)[:rounds]
        return order[:size]


@dataclass(frozen=True)
class LengthPlan(Plan):
    """Every sample once an epoch, those of one step of about the same length, steps in a new order each time.

    The samples of `_POOL` steps, drawn at random, are sorted together. Dealt out in turns, the sorted samples
    of a step make batches of about the same cost on every rank.

    Attributes:
        length: Of each sample.
    """

    length: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def order(self, size: int, seed: int, epoch: int, step: int) -> NDArray[np.int64]:
        """Steps one after the other, an incomplete one at the end."""
        rng = generator(seed, "length order", epoch)
        drawn = rng.permutation(size)
        pools = np.split(drawn, range(step * _POOL, size, step * _POOL))
        order = np.concatenate([pool[np.argsort(self.length[pool], kind="stable")] for pool in pools])
        whole, rest = divmod(size, step)
        last = step * int(rng.integers(whole + 1)) + np.arange(rest)
        steps = np.delete(order, last).reshape(whole, step)
        return np.concatenate([rng.permutation(steps).ravel(), order[last]])


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
            order = self.plan.order(self.size, self.seed, self.epoch, self.batch_size * self.world_size)
            order = order[: self.size - self.size % self.world_size]
        return order[self.rank :: self.world_size]

    def __len__(self) -> int:
        # As many on every rank: a model that is split over ranks is gathered for each batch.
        most = self.size // self.world_size if self.train else -(-self.size // self.world_size)
        if self.batch_size == 1 and not self.train:  # nothing to divide
            most = len(range(self.rank, self.size, self.world_size))
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        positions, count = self.positions(), len(self)
        first = self.first[1] if self.epoch == self.first[0] else 0
        for number in range(first, count):
            # A rank with a sample less may have to take its last batch from the one before.
            start, stop = (min(n * self.batch_size, len(positions) - count + n) for n in (number, number + 1))
            chosen = positions[start:stop]
            if self.plan.extra is not None:
                more = self.plan.extra.draw(self.seed, self.epoch, start, self.rank)
                chosen = np.concatenate([chosen, more])
            yield BatchKey(self.epoch, chosen, number)
