"""The contract of a data source: which samples there are, and how to load one modality of one."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_distill.randomness import mixed
from lightning_distill.structures import labelled_rows

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True)
class SampleTable:
    """What is known of each sample without loading it; arrays of one length.

    Attributes:
        sample_id: int64, a stable content id.
        target: Labels: int64, one class index a sample, `UNLABELLED` where there is none; int8
            "rows classes", 0 or 1, `UNKNOWN` where not known; or float32 "rows outputs", NaN where not known.
        split: int8 index into `SPLITS`.
        domain: int64 index into the source's domains.
        present: modality -> bool.
        weight: float32, weight in the task's loss; empty where every sample weighs 1.
    """

    sample_id: NDArray[np.int64]
    target: NDArray[Any]
    split: NDArray[np.int8]
    domain: NDArray[np.int64]
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    weight: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.sample_id)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def labelled(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of these samples has a label."""
        return labelled_rows(torch.from_numpy(self.target[rows])).numpy()

    def combinations(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> dict[tuple[str, ...], int]:
        """How many of these samples have which of the modalities, most frequent first.

        >>> present = {"image": np.array([True, True, False]), "text": np.array([True, False, True])}
        >>> zeros = np.zeros(3, np.int64)
        >>> table = SampleTable(zeros, zeros, zeros.astype(np.int8), zeros, present)
        >>> table.combinations(np.arange(3), ["image", "text"])
        {('image', 'text'): 1, ('text',): 1, ('image',): 1}
        """
        codes = sum(self.present[m][rows].astype(np.int64) << at for at, m in enumerate(modalities))
        counts = np.bincount(codes, minlength=1)
        order = sorted(np.flatnonzero(counts), key=lambda code: (-counts[code], -code.bit_count(), -code))
        return {
            tuple(m for at, m in enumerate(modalities) if code >> at & 1): int(counts[code]) for code in order
        }

    def told(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> str:
        """How many samples these are, how many have a label, and which modalities they have."""
        counts = self.combinations(rows, modalities)
        each = ", ".join(f"{'+'.join(names)} {count:,}" for names, count in counts.items())
        return f"{len(rows):,} samples, {int(self.labelled(rows).sum()):,} labelled ({each})"


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
    """Names of the classes, in the order of the class indices; of the columns where targets are numbers."""
    domains: tuple[str, ...] = ("default",)
    """Names of the domains."""

    @property
    @abstractmethod
    def samples(self) -> SampleTable:
        """The samples."""

    @property
    def fingerprint(self) -> str:
        """Changes when the samples change: ids, targets and splits, hashed."""
        table = self.samples
        digest = hashlib.blake2b(digest_size=16)
        for array in (table.sample_id, table.target, table.split):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def contents(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.uint64]:
        """What these samples hold of some modalities, as hashes: equal hashes, equal samples.

        What a teacher said of a sample is found again by it. Here it is the sample id, which stands for all
        modalities; a source whose ids do not follow from the content says more.

        Args:
            rows: Row numbers.
            modalities: Those that count.

        Returns:
            uint64 "rows".
        """
        return mixed(self.samples.sample_id[rows].astype(np.uint64))

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
