"""The contract of a processor: how raw samples of one modality become what an encoder reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.structures import Inputs


class Processor(ABC):
    """Preprocessing of one modality: what is cheap a sample in `prepare`, the rest a batch in `collate`."""

    @abstractmethod
    def prepare(self, raw: Any) -> Any:
        """Turn one raw sample into one that can be collated."""

    @abstractmethod
    def blank(self) -> Any:
        """A prepared sample to stand in the place of an absent one."""

    @abstractmethod
    def collate(self, prepared: Sequence[Any]) -> Inputs:
        """Turn a batch of prepared samples into tensors."""

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """Augment a training batch; every draw is a function of (seed, epoch, sample). Default: nothing."""
        return inputs
