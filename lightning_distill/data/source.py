"""The contract of a data source: which samples there are, and how to load one modality of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.structures import UNLABELLED

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True)
class SampleTable:
    """What is known of each sample without loading it; arrays of one length.

    Attributes:
        sample_id: int64, a stable content id.
        target: int64 class index, `UNLABELLED` where there is no label.
        split: int8 index into `SPLITS`.
        domain: int64 index into the source's domains.
        present: modality -> bool.
    """

    sample_id: NDArray[np.int64]
    target: NDArray[np.int64]
    split: NDArray[np.int8]
    domain: NDArray[np.int64]
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_id)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Whether each sample has a label."""
        return self.target != UNLABELLED


@dataclass(frozen=True)
class Waveform:
    """A sound.

    Attributes:
        samples: float32 in [-1, 1], mono, "time".
        sample_rate: Hz.
    """

    samples: NDArray[np.float32]
    sample_rate: int


class DataSource(ABC):
    """Samples of one or several modalities.

    A raw image is a uint8 array "height width channels" (RGB or grey), a raw text a str, a raw sound a
    `Waveform`; a user's own modality may be anything its processor understands.
    """

    classes: tuple[str, ...]
    """Names of the classes, in the order of the class indices."""
    domains: tuple[str, ...] = ("default",)
    """Names of the domains."""

    @property
    @abstractmethod
    def samples(self) -> SampleTable:
        """The samples."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it can load."""
        return tuple(self.samples.present)

    @abstractmethod
    def load(self, modality: str, row: int) -> Any:
        """Load one modality of one sample, which must be present.

        Raises:
            SampleError: If it cannot be read; names file, row and field.
        """

    def describe(self, row: int) -> str:
        """Where a sample comes from, for error messages."""
        return f"row {row}"
