"""Triples (or pairs) drawn at random within a class, from banks of single items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import SPLITS, DataSource, SampleTable
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import derive, generator
from lightning_distill.structures import UNLABELLED


@dataclass(frozen=True)
class Bank:
    """Labelled items of one modality.

    Attributes:
        label: Class of each item.
        split: Index into `SPLITS` of each item; an item serves one split only.
        load: Item number -> raw sample.
    """

    label: NDArray[np.int64]
    split: NDArray[np.int8]
    load: Callable[[int], Any]


def split_at_random(key: str, size: int, val: float, test: float) -> NDArray[np.int8]:
    """Assign each of `size` items to a split, always the same way for the same key."""
    draws = generator("split", key).random(size)
    return np.where(draws < test, 2, np.where(draws < test + val, 1, 0)).astype(np.int8)


def split_by_group(group: NDArray[Any], val: set[str], test: set[str]) -> NDArray[np.int8]:
    """Assign whole groups (speakers, voices, languages) to a split."""
    return np.array([2 if g in test else 1 if g in val else 0 for g in group], dtype=np.int8)


class ClassPairedSource(DataSource):
    """Rows whose modalities show the same class but were not recorded together.

    Classes are balanced. Which items meet in a row is a function of (name, seed, split, row).

    Args:
        name: Names the data in sample ids.
        banks: modality -> items.
        classes: Names of the classes.
        sizes: split -> rows.
        labelled: Training rows that keep their label, the same number of each class; None keeps all.
        seed: Of pairing and of the choice of labels.

    Raises:
        ConfigError: If `labelled` is not a multiple of the number of classes, or too large.
    """

    def __init__(
        self,
        name: str,
        banks: Mapping[str, Bank],
        classes: tuple[str, ...],
        sizes: Mapping[str, int],
        labelled: int | None,
        seed: int,
    ) -> None:
        self.classes, self.domains = classes, (name,)
        self._banks = banks
        count = len(classes)
        if labelled is not None and (labelled < 0 or labelled % count or labelled > sizes["train"]):
            raise ConfigError(
                where=f"{type(self).__name__}.labelled",
                found=labelled,
                expected=f"a multiple of {count}, at most {sizes['train']}, or null for all labels",
                fix=f"for example {5 * count}",
            )
        parts = [self._draw(name, split, sizes[split], seed) for split in SPLITS]
        label = np.concatenate([p[0] for p in parts])
        self._items = {m: np.concatenate([p[1][m] for p in parts]) for m in banks}
        split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(p[0]) for p in parts])
        target = label.copy()
        if labelled is not None:
            kept = np.flatnonzero(split == 0)[:labelled]  # classes take turns, so this is balanced
            hidden = split == 0
            hidden[kept] = False
            target[hidden] = UNLABELLED
        self._samples = SampleTable(
            sample_id=self._identify(name, split),
            target=target,
            split=split,
            domain=np.zeros(len(label), dtype=np.int64),
            present={m: np.ones(len(label), dtype=np.bool_) for m in banks},
        )

    def _draw(
        self, name: str, split: str, size: int, seed: int
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        label = np.arange(size, dtype=np.int64) % len(self.classes)
        items = {}
        for modality, bank in self._banks.items():
            rng = generator("pair", name, split, modality, seed)
            items[modality] = np.empty(size, dtype=np.int64)
            for digit in range(len(self.classes)):
                pool = np.flatnonzero((bank.label == digit) & (bank.split == SPLITS.index(split)))
                rows = label == digit
                # Whole shuffles of the pool one after the other: no item is used twice before all are once.
                turns = -(-int(rows.sum()) // len(pool))
                items[modality][rows] = np.concatenate([rng.permutation(pool) for _ in range(turns)])[
                    : rows.sum()
                ]
        return label, items

    def _identify(self, name: str, split: NDArray[np.int8]) -> NDArray[np.int64]:
        items = [self._items[m] for m in self._banks]
        keys = zip(*items, split.tolist(), strict=True)
        return np.array([derive(name, *map(int, key)) for key in keys], dtype=np.int64)

    @property
    def samples(self) -> SampleTable:
        """The rows, training first."""
        return self._samples

    def load(self, modality: str, row: int) -> Any:
        """The raw sample of the row's item."""
        return self._banks[modality].load(int(self._items[modality][row]))
