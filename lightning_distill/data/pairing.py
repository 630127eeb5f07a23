"""Which target row goes with which source row in a training batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import SampleTable
from lightning_distill.errors import ConfigError
from lightning_distill.randomness import generator
from lightning_distill.structures import UNLABELLED

Draw = Callable[[NDArray[np.int64], tuple[int, ...]], NDArray[np.int64]]
"""Takes which of the source rows are in a batch, and the key (seed, epoch, number of the batch, rank); gives
for each which of the target rows is its partner."""


class Pairing(ABC):
    """How the rows of the target domains go with those of the source domains in training.

    With partners, row k of a batch's target part belongs to row k of its source part, an epoch is one pass
    over the source domain with the most batches, and the batch size of the target domains does not count.
    """

    @abstractmethod
    def draw(self, table: SampleTable, source: NDArray[np.int64], target: NDArray[np.int64]) -> Draw | None:
        """What gives each source row its partner; None where each domain is drawn by itself.

        Args:
            table: What is known of the samples of all domains.
            source: Row numbers of all source domains that training uses.
            target: Those of the target domains.

        Raises:
            ConfigError: If there are no such pairs.
        """


class Independent(Pairing):
    """Each domain is drawn by itself."""

    def draw(self, table: SampleTable, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """No partners."""
        return


class PairedByRow(Pairing):
    """Row i of the target's training split belongs to row i of the source's: a photo and its drawing.

    For one source and one target domain. All target rows must be usable that a used source row belongs to.

    >>> zeros, domain = np.zeros(4, np.int64), np.array([0, 0, 1, 1])
    >>> table = SampleTable(np.arange(4), zeros, zeros.astype(np.int8), domain)
    >>> PairedByRow().draw(table, np.array([0, 1]), np.array([2, 3]))(np.array([1, 0]), (0, 0, 0, 0)).tolist()
    [1, 0]
    """

    def draw(self, table: SampleTable, source: NDArray[np.int64], target: NDArray[np.int64]) -> Draw:
        """The same partner in every epoch."""
        domains = [np.unique(table.domain[rows]) for rows in (source, target)]
        counts = [len(found) for found in domains]
        if counts != [1, 1]:
            raise self._wrong(f"{counts[0]} source and {counts[1]} target domains", "one of each")
        # By place in the whole split: rows that are not used must not shift the others.
        ours, theirs = (
            np.flatnonzero((table.domain == at[0]) & (table.split == table.split[source[0]]))
            for at in domains
        )
        if len(ours) != len(theirs):
            raise self._wrong(f"{len(ours)} source rows and {len(theirs)} target rows", "as many of each")
        wanted = theirs[np.searchsorted(ours, source)]
        place = np.minimum(np.searchsorted(target, wanted), len(target) - 1)
        lost = int((target[place] != wanted).sum())
        if lost:
            raise self._wrong(f"{lost} source rows whose partner is not used", "partners that can be used")
        return partial(_given, place)

    def _wrong(self, found: str, expected: str) -> ConfigError:
        return ConfigError(
            where=f"CrossDomainDataModule.pairing, {type(self).__name__}",
            found=f"{found} in the training split",
            expected=expected,
            fix="make rows, labels and modalities of the two domains go together, or use PairedByClass or "
            "Independent",
        )


class PairedByClass(Pairing):
    """For each source row a target row of the same class, drawn at random for every batch.

    It uses the labels of the target's training split; target rows without a label are not drawn.

    >>> zeros, domain = np.zeros(4, np.int64), np.array([0, 0, 1, 1])
    >>> table = SampleTable(np.arange(4), np.array([5, 6, 6, 5]), zeros.astype(np.int8), domain)
    >>> draw = PairedByClass().draw(table, np.array([0, 1]), np.array([2, 3]))
    >>> draw(np.array([0, 1]), (0, 0, 0, 0)).tolist()
    [1, 0]
    """

    def draw(self, table: SampleTable, source: NDArray[np.int64], target: NDArray[np.int64]) -> Draw:
        """Another partner every time; within a batch no target row twice where the class has enough."""
        ours, theirs = table.target[source], table.target[target]
        if ours.ndim != 1:
            raise self._wrong("targets with several values a sample", "one class a sample")
        if (ours == UNLABELLED).any():
            count = int((ours == UNLABELLED).sum())
            raise self._wrong(f"{count} source rows without a label", "a label in every source row")
        lacking = np.setdiff1d(ours, theirs)
        if len(lacking):
            named = ", ".join(map(str, lacking[:8])) + (", ..." if len(lacking) > 8 else "")
            raise self._wrong(
                f"no labelled target row of {len(lacking)} of the source's classes (indices {named})",
                "target rows of every class the source has",
            )
        groups = {int(label): np.flatnonzero(theirs == label) for label in np.unique(ours)}
        return partial(_of_class, ours, groups)

    def _wrong(self, found: str, expected: str) -> ConfigError:
        return ConfigError(
            where=f"CrossDomainDataModule.pairing, {type(self).__name__}",
            found=f"{found} in the training split",
            expected=expected,
            fix="add labels, leave rows without partner out (sampling: {class_path: Shuffle, init_args: "
            "{unlabelled: false}}), or use Independent",
        )


def _given(partner: NDArray[np.int64], rows: NDArray[np.int64], key: tuple[int, ...]) -> NDArray[np.int64]:
    return partner[rows]


def _of_class(
    labels: NDArray[Any], groups: dict[int, NDArray[np.int64]], rows: NDArray[np.int64], key: tuple[int, ...]
) -> NDArray[np.int64]:
    rng, chosen = generator("partners", *key), np.empty(len(rows), np.int64)
    for label in np.unique(labels[rows]).tolist():
        places, group = np.flatnonzero(labels[rows] == label), groups[label]
        chosen[places] = rng.choice(group, len(places), replace=len(places) > len(group))
    return chosen
