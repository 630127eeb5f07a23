"""Another random view of the same sample, for a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.processor import Processor
from lightning_distill.randomness import View, derive
from lightning_distill.structures import Inputs


class OwnView(Processor):
    """A processor whose random views are drawn apart from those of all others.

    In `teacher_processors` it lets the teacher see another view of a sample than the student does, as
    consistency training and pseudo-labels want it: with the same augmentation, another draw of it; with less,
    a weaker view; with none, the sample as it is. The draws are still a function of (seed, epoch, sample). In
    evaluation it is the other processor.

    Args:
        processor: What prepares the samples.

    >>> import torch
    >>> from lightning_distill.data import ImageProcessor
    >>> ours = ImageProcessor(8, 1, max_shift=0.4)
    >>> image, ids = np.zeros((1, 1, 8, 8), np.uint8), np.array([5])
    >>> image[0, 0, 2:4, 2:4] = 255
    >>> views = [p.augment(torch.from_numpy(image), 0, 0, ids) for p in (ours, OwnView(ours))]
    >>> bool((views[0] == views[1]).all())
    False
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def prepare(self, raw: Any, view: View | None = None) -> Any:
        """As the other processor, of another view."""
        return self.processor.prepare(raw, None if view is None else view._replace(seed=_own(view.seed)))

    def blank(self) -> Any:
        """As the other processor."""
        return self.processor.blank()

    def collate(self, prepared: Sequence[Any]) -> Inputs:
        """As the other processor."""
        return self.processor.collate(prepared)

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """As the other processor, with other draws."""
        return self.processor.augment(inputs, _own(seed), epoch, sample_id)

    @property
    def varies(self) -> bool:
        """As the other processor."""
        return self.processor.varies

    @property
    def augments(self) -> bool:
        """As the other processor."""
        return self.processor.augments

    @property
    def identity(self) -> object:
        """The other processor."""
        return self.processor

    @property
    def settings(self) -> Mapping[str, Any]:
        """As the other processor."""
        return self.processor.settings

    @property
    def view_settings(self) -> Mapping[str, Any]:
        """Those of the other processor, and whose they are."""
        return {**self.processor.view_settings, "own_view": type(self.processor).__name__}

    def check(self) -> None:
        """Let the other processor look for what it needs."""
        self.processor.check()


def _own(seed: int) -> int:
    return derive(seed, "own view")
