"""What training draws from: all samples, by length or not, classes in balance, only complete samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.sampling import BalancedPlan, Extra, LengthPlan, Plan
from lightning_distill.data.source import SampleTable
from lightning_distill.errors import ConfigError, nearest

Lengths = Callable[[str], NDArray[np.int64]]
"""Gives the length of each row's sample of a modality, in tokens; it may take a while."""


class Sampling(ABC):
    """Which training samples are used, and how often."""

    @abstractmethod
    def usable(self, table: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these rows are used at all."""

    @abstractmethod
    def plan(self, table: SampleTable, rows: NDArray[np.int64], lengths: Lengths) -> Plan:
        """How to draw from rows that are all usable.

        Args:
            table: What is known of the samples.
            rows: Row numbers.
            lengths: Asked only by plans that depend on it.

        Raises:
            ConfigError: If they lack what is to be drawn.
        """


class Shuffle(Sampling):
    """Every sample once an epoch.

    Args:
        labelled_per_batch: Labelled samples added to every batch, for when labels are few: with 50 labels
            among thousands of samples a batch would else hold one or none.
        unlabelled: Use samples without a label too (distillation learns from them).

    Raises:
        ConfigError: If the number is negative.
    """

    def __init__(self, labelled_per_batch: int = 0, unlabelled: bool = True) -> None:
        if labelled_per_batch < 0:
            raise ConfigError(
                where=f"{type(self).__name__}.labelled_per_batch",
                found=labelled_per_batch,
                expected="0 or more",
                fix="try 16",
            )
        self.labelled_per_batch, self.unlabelled = labelled_per_batch, unlabelled

    def usable(self, table: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All, or those with a label."""
        return np.ones(len(rows), np.bool_) if self.unlabelled else table.labelled(rows)

    def plan(self, table: SampleTable, rows: NDArray[np.int64], lengths: Lengths) -> Plan:
        """Each once, and some labelled ones more often."""
        if not self.labelled_per_batch:
            return Plan()
        labelled = np.flatnonzero(table.labelled(rows))
        if not len(labelled):
            raise ConfigError(
                where=f"{type(self).__name__}.labelled_per_batch",
                found=f"{self.labelled_per_batch}, and no labelled training sample",
                expected="0, or labelled samples",
                fix="set labelled_per_batch to 0",
            )
        return Plan(Extra(labelled, self.labelled_per_batch))


class LengthBucketed(Shuffle):
    """Every sample once an epoch, in batches of texts of about the same length, so that little is padded.

    All training texts are tokenised once before the first step (about a minute a million), and kept. Which
    texts meet in a batch depends on their length, so batches are less random than those of `Shuffle`.
    Labelled samples that are added have any length.

    Args:
        modality: The texts' name.
        labelled_per_batch: See `Shuffle`.
        unlabelled: See `Shuffle`.
    """

    def __init__(self, modality: str = "text", labelled_per_batch: int = 0, unlabelled: bool = True) -> None:
        super().__init__(labelled_per_batch, unlabelled)
        self.modality = modality

    def plan(self, table: SampleTable, rows: NDArray[np.int64], lengths: Lengths) -> Plan:
        """Each once, beside others of its length."""
        return LengthPlan(super().plan(table, rows, lengths).extra, lengths(self.modality))


class ModalityPaired(Shuffle):
    """Every sample that has all of some modalities, once an epoch: what terms that compare modalities need.

    Args:
        modalities: Those a sample must have.
        labelled_per_batch: See `Shuffle`.
        unlabelled: See `Shuffle`.

    Raises:
        ConfigError: If fewer than two modalities are named.
    """

    def __init__(self, modalities: list[str], labelled_per_batch: int = 0, unlabelled: bool = True) -> None:
        super().__init__(labelled_per_batch, unlabelled)
        if len(set(modalities)) < 2:
            raise ConfigError(
                where=f"{type(self).__name__}.modalities",
                found=modalities,
                expected="two modalities or more",
                fix="for example [image, text]",
            )
        self.modalities = tuple(modalities)

    def usable(self, table: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those with every one of the modalities."""
        for modality in self.modalities:
            if modality not in table.present:
                raise ConfigError(
                    where=f"{type(self).__name__}.modalities",
                    found=f"{modality!r}{nearest(modality, table.present)}",
                    expected=f"some of {', '.join(table.present)}",
                    fix="correct the name",
                )
        complete = np.logical_and.reduce([table.present[m][rows] for m in self.modalities])
        return complete & super().usable(table, rows)


class ClassBalanced(Sampling):
    """Every class as often as any other; samples without a label are left out.

    An epoch has as many samples as there are with a label: those of rare classes come several times, each in
    another view where there is augmentation.
    """

    def usable(self, table: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those with a label."""
        return table.labelled(rows)

    def plan(self, table: SampleTable, rows: NDArray[np.int64], lengths: Lengths) -> Plan:
        """Classes take turns."""
        target = table.target[rows]
        if target.ndim != 1:
            raise ConfigError(
                where=type(self).__name__,
                found="targets with several values a sample",
                expected="one class a sample",
                fix="use Shuffle",
            )
        return BalancedPlan(groups=tuple(np.flatnonzero(target == c) for c in np.unique(target)))
