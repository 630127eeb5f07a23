"""A source most of whose labels are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import SPLITS, DataSource, SampleTable
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import generator
from lightning_distill.structures import UNKNOWN, UNLABELLED


class PartlyLabelled(DataSource):
    """A source with the labels of some splits hidden, but for a few of each class.

    For trials of what few labels cost, or none. Which labels stay is a function of (seed, split, class), and
    those that stay at a smaller `per_class` stay at a larger one.

    Args:
        source: With all labels.
        per_class: Labelled rows of each class that stay so, in each of the splits; all, where a class has
            fewer.
        splits: Where labels are hidden; others keep theirs.
        seed: Of the choice.

    Raises:
        ConfigError: If the number is negative, a split unknown, or `per_class` is above 0 where targets are
            not one class a sample.
    """

    def __init__(
        self,
        source: DataSource,
        per_class: int = 0,
        splits: tuple[str, ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        for split in splits:
            if split not in SPLITS:
                raise ConfigError(
                    where="PartlyLabelled.splits",
                    found=split,
                    expected=f"some of {', '.join(SPLITS)}",
                    fix="correct the name",
                )
        target = source.samples.target
        if per_class < 0 or (per_class and target.ndim != 1):
            raise ConfigError(
                where="PartlyLabelled.per_class",
                found=f"{per_class}"
                + (", and targets with several values a sample" if target.ndim > 1 else ""),
                expected="0, or a number of rows where each has one class",
                fix="set it to 0",
            )
        self.source, self.classes, self.domains = source, source.classes, source.domains
        self._samples = replace(source.samples, target=_hidden(source.samples, per_class, splits, seed))

    @property
    def samples(self) -> SampleTable:
        """All rows, with the labels that are left."""
        return self._samples

    def contents(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.uint64]:
        """As the source makes them."""
        return self.source.contents(rows, modalities)

    def load(self, modality: str, row: int) -> Any:
        """As the source does."""
        return self.source.load(modality, row)

    def describe(self, row: int) -> str:
        """As the source does."""
        return self.source.describe(row)


def _hidden(table: SampleTable, per_class: int, splits: Sequence[str], seed: int) -> NDArray[Any]:
    target = np.array(table.target)
    unknown = np.nan if target.dtype.kind == "f" else UNKNOWN if target.ndim == 2 else UNLABELLED
    for split in splits:
        rows = table.rows_of(split)
        labels = table.target[rows]
        target[rows] = unknown
        for label in np.unique(labels[labels != UNLABELLED]).tolist() if per_class else ():
            own = rows[labels == label]
            kept = generator("labels kept", seed, split, label).permutation(own)[:per_class]
            target[kept] = label
    return target
