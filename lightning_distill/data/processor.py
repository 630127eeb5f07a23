"""The contract of a processor: how raw samples of one modality become what an encoder reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.randomness import View
from lightning_distill.structures import Inputs


class Processor(ABC):
    """Preprocessing of one modality: what is cheap a sample in `prepare`, the rest a batch in `collate`.

    Random views are measured relative to the sample (shares of a side, of a clip, of the bands), and drawn
    from (seed, epoch, sample). So two processors with equal `view_settings`, for teacher and student, show
    the same view, whatever size or sample rate each of them makes of it.
    """

    @abstractmethod
    def prepare(self, raw: Any, view: View | None = None) -> Any:
        """Turn one raw sample into one that can be collated.

        Args:
            raw: As a `DataSource` loads it.
            view: Which random view to take; None in evaluation.

        Raises:
            ValueError: If it is nothing this processor can prepare; says what it is.
        """

    @abstractmethod
    def blank(self) -> Any:
        """A prepared sample to stand in the place of an absent one."""

    @abstractmethod
    def collate(self, prepared: Sequence[Any]) -> Inputs:
        """Turn a batch of prepared samples into tensors."""

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """Augment a training batch; every draw is a function of (seed, epoch, sample). Default: nothing."""
        return inputs

    @property
    def varies(self) -> bool:
        """Whether `prepare` makes a random view, so that prepared samples cannot be kept. Default: no."""
        return False

    @property
    def augments(self) -> bool:
        """Whether a sample differs from epoch to epoch in training. Default: if anything here could do it."""
        return self.varies or type(self).augment is not Processor.augment

    @property
    def identity(self) -> object:
        """All that evaluation depends on, for `identity_of`. Default: the settings, else the attributes."""
        return dict(self.settings) or vars(self)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What evaluation depends on, as plain values; recorded with a trained model. Default: nothing."""
        return {}

    @property
    def view_settings(self) -> Mapping[str, Any]:
        """What random views depend on, as plain values. Default: nothing."""
        return {}

    def portable_init_args(self, folder: Path) -> Mapping[str, Any]:
        """Arguments that make a processor which prepares samples as this one does in evaluation.

        Called when a student is saved, so that it can prepare raw samples itself. A processor that reads
        files writes them into `folder`, which need not exist yet, and points there.

        Args:
            folder: Belongs to this processor; paths below it may be returned as plain strings.

        Returns:
            Those arguments of the constructor that no attribute of the same name holds as a plain value.
            None by default.
        """
        return {}

    def check(self) -> None:  # noqa: B027 - most processors need nothing
        """Load what is needed, before training starts.

        Raises:
            ConfigError: If something is missing.
        """
