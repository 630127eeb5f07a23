"""Randomness as a function of (seed, epoch, sample) and (seed, step), never of what ran before.

That makes resume exact and results independent of the number of workers: there is no state to restore.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def default_seed() -> int:
    """The seed given to `seed_everything`, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def derive(*key: int | str) -> int:
    """A 63-bit integer that depends on every part of the key and on nothing else.

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator seeded by the key, for draws that concern a whole epoch or data set."""
    return np.random.Generator(np.random.Philox(key=derive(*key)))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one training step, so that dropout is a function of (seed, step, rank)."""
    number = derive(seed, "step", step, rank)
    # `torch.manual_seed` also notes, with a stack trace, a seed for every kind of device that is not in use.
    # That takes longer than a small step, and the notes are never dropped.
    torch.default_generator.manual_seed(number)
    kind = torch.accelerator.current_accelerator()
    device = None if kind is None else torch.get_device_module(kind)
    if device is not None and getattr(device, "is_initialized", device.is_available)():
        getattr(device, "manual_seed_all", device.manual_seed)(number)


def uniform(
    seed: int, epoch: int, sample_id: NDArray[np.int64], purpose: str, n: int = 1
) -> NDArray[np.float32]:
    """Uniform draws in [0, 1), one row a sample: a counter-based generator (splitmix64), vectorised.

    A sample gets the same draws whatever batch or worker it is in.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        sample_id: "batch".
        purpose: Names the draw, so that two transforms do not share their numbers.
        n: Draws a sample.

    Returns:
        "batch n", float32.

    >>> ids = np.array([5, 9])
    >>> bool((uniform(0, 1, ids, "shift", 2)[1] == uniform(0, 1, ids[1:], "shift", 2)[0]).all())
    True
    """
    with np.errstate(over="ignore"):
        start = np.uint64(derive(seed, epoch, purpose))
        base = mixed(sample_id.astype(np.uint64) ^ start)
        counter = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
        bits = mixed(base[:, None] + counter[None, :])
    return ((bits >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Another number for each, which tells nothing of it: the last step of splitmix64, one to one."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * _MIX[0]
        z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return z ^ (z >> np.uint64(31))


class View(NamedTuple):
    """Which random view of a sample: a function of (seed, epoch, sample), the same for teacher and student.

    Attributes:
        seed: Of the run.
        epoch: Counted from 0.
        sample_id: Content id of the sample.
    """

    seed: int
    epoch: int
    sample_id: int

    def uniform(self, purpose: str, n: int = 1) -> NDArray[np.float32]:
        """`n` draws in [0, 1), float32; those of `uniform` for this sample.

        >>> bool((View(0, 1, 9).uniform("crop", 3) == uniform(0, 1, np.array([9]), "crop", 3)[0]).all())
        True
        """
        return uniform(self.seed, self.epoch, np.array([self.sample_id], np.int64), purpose, n)[0]

    def seed_for(self, purpose: str) -> int:
        """A 63-bit seed, for generators of other libraries."""
        return derive(self.seed, self.epoch, self.sample_id, purpose)
