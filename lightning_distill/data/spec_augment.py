"""SpecAugment: parts of a spectrogram blotted out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.randomness import uniform


@dataclass(frozen=True)
class SpecAugment:
    """Masks over time and frequency, measured in shares, so that they fit every resolution.

    A mask is as wide as a uniform draw from 0 to its largest share, and begins anywhere it fits. Masked cells
    become the clip's mean, which is 0 after normalisation.

    Attributes:
        time_masks: How many.
        time_share: Largest width of one, as a share of the clip.
        frequency_masks: How many.
        frequency_share: Largest width of one, as a share of the bands.

    Raises:
        ConfigError: If a number is negative or a share is no share.

    Source: Park et al. (1904.08779), section 2, without time warping; the paper counts widths in frames and
    bands.
    """

    time_masks: int = 2
    time_share: float = 0.2
    frequency_masks: int = 2
    frequency_share: float = 0.2

    def __post_init__(self) -> None:
        shares = self.time_share, self.frequency_share
        if min(self.time_masks, self.frequency_masks) < 0 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                where="SpecAugment",
                found=f"time_masks={self.time_masks}, time_share={self.time_share}, "
                f"frequency_masks={self.frequency_masks}, frequency_share={self.frequency_share}",
                expected="numbers of masks of 0 or more, and shares between 0 and 1",
                fix="for example time_masks=2, time_share=0.2, frequency_masks=2, frequency_share=0.2",
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """As plain values."""
        return asdict(self)

    def __call__(self, mel: Tensor, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Tensor:
        """Mask a batch.

        Args:
            mel: float "batch frames mels", zero mean a clip.
            seed: Of the run.
            epoch: Counted from 0.
            sample_id: "batch".

        >>> mel = SpecAugment(1, 0.5, 0)(torch.ones(64, 10, 3), 0, 0, np.arange(64))
        >>> 0 < int((mel == 0).all(dim=2).sum(dim=1).max()) <= 5
        True
        """
        hidden = torch.zeros(mel.shape, dtype=torch.bool)
        for axis, count, share in (
            ("time", self.time_masks, self.time_share),
            ("frequency", self.frequency_masks, self.frequency_share),
        ):
            draws = torch.from_numpy(uniform(seed, epoch, sample_id, f"audio {axis} masks", 2 * count))
            width = draws[:, :count] * share
            start = draws[:, count:] * (1 - width)
            cells = mel.shape[1 if axis == "time" else 2]
            centres = ((torch.arange(cells) + 0.5) / cells)[None, None, :]
            inside = (centres >= start[..., None]) & (centres < (start + width)[..., None])
            hidden |= inside.any(dim=1)[:, :, None] if axis == "time" else inside.any(dim=1)[:, None, :]
        return mel.masked_fill(hidden, 0.0)
