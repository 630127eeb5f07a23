"""The contract of a corruption: one way in which one modality gets worse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import ConfigError, nearest
from lightning_distill.randomness import uniform
from lightning_distill.structures import Batch, Inputs


class Corruption(ABC):
    """Makes one modality of a batch worse, by a level between 0 (as it is) and 1.

    What happens is a function of the arguments and of each sample's id. Draws do not depend on the level:
    what is changed at one level is changed at every higher one too.
    """

    name: ClassVar[str]
    """What it is called in tables and files."""

    def __call__(self, batch: Batch, modality: str, level: float, seed: int) -> Batch:
        """A batch with that modality made worse; the one given is left as it was.

        Args:
            batch: On any device.
            modality: The one to make worse.
            level: In [0, 1]; 0 returns the batch itself.
            seed: Other seeds give other draws.

        Raises:
            ConfigError: If there is no such modality, or the level is out of range.
        """
        if modality not in batch["inputs"]:
            raise ConfigError(
                where=f"{type(self).__name__}, modality",
                found=f"{modality!r}{nearest(modality, batch['inputs'])}",
                expected=f"one of the batch's: {', '.join(batch['inputs'])}",
                fix="name one of these",
            )
        if not 0 <= level <= 1:
            raise ConfigError(
                where=f"{type(self).__name__}, level",
                found=level,
                expected="a number from 0 (as it is) to 1",
                fix="give a level in this range",
            )
        if level == 0:
            return batch
        inputs, present = self.corrupt(batch, modality, level, seed)
        return {
            **batch,
            "inputs": {**batch["inputs"], modality: inputs},
            "present": {**batch["present"], modality: present},
        }

    @abstractmethod
    def corrupt(self, batch: Batch, modality: str, level: float, seed: int) -> tuple[Inputs, Tensor]:
        """What stands in the place of that modality's inputs, and its mask, bool "batch".

        Args:
            batch: Not to be edited.
            modality: One of the batch's.
            level: In (0, 1].
            seed: Of the draws.
        """

    @abstractmethod
    def spared(self, batch: Batch, modality: str) -> Tensor:
        """Which samples stay as they are at every level: bool "batch".

        Args:
            batch: As `corrupt` takes it.
            modality: One of the batch's.
        """


def draws(batch: Batch, seed: int, purpose: str, n: int = 1) -> Tensor:
    """Uniform draws in [0, 1) that depend on (seed, sample id, purpose) alone.

    Args:
        batch: Its `sample_id` and its device count.
        seed: Of the draws.
        purpose: Names them, so that no two share their numbers.
        n: Draws a sample.

    Returns:
        float32 "batch n".
    """
    numbers = uniform(seed, 0, sample_ids(batch), f"robustness {purpose}", n)
    return torch.from_numpy(numbers).to(batch["sample_id"].device)


def sample_ids(batch: Batch) -> NDArray[np.int64]:
    """The ids in main memory, "batch"."""
    return batch["sample_id"].cpu().numpy().astype(np.int64, copy=False)
