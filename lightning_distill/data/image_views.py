"""Random views of a raw image: a part of it, its mirror image, and any torchvision transform."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.randomness import View

_LONGEST: Final = 4 / 3


@dataclass(frozen=True)
class ImageViews:
    """What a training image may be made of, before it is resized.

    Attributes:
        min_crop: The part of the image that is kept has at least this share of its area. Its aspect ratio is
            between 3/4 and 4/3, as in torchvision's `RandomResizedCrop`, but drawn once: a part too wide or
            too high is cut to the image, where torchvision draws up to ten times. 1 keeps the whole image.
        flip: Mirror left and right in half of the views.
        transform: Any transform of torchvision v2 for uint8 images "channels height width", such as
            `RandAugment()`. Its draws come from torch's generator, seeded by (seed, epoch, sample).

    Raises:
        ConfigError: If the share is out of range.
    """

    min_crop: float = 0.08
    flip: bool = False
    transform: nn.Module | Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_crop <= 1:
            raise ConfigError(
                where="ImageViews.min_crop",
                found=self.min_crop,
                expected="a share of the area, above 0 and at most 1",
                fix="try 0.25; 1 keeps the whole image",
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """As plain values."""
        transform = None if self.transform is None else _named(self.transform)
        return {"min_crop": self.min_crop, "flip": self.flip, "transform": transform}

    def box(self, height: int, width: int, draws: Sequence[float]) -> tuple[slice, slice]:
        """Rows and columns that are kept, of four draws: area, aspect ratio, place across and down.

        >>> ImageViews(0.25).box(100, 100, [0, 0.5, 0, 1])
        (slice(50, 100, None), slice(0, 50, None))
        """
        if self.min_crop == 1:
            return slice(0, height), slice(0, width)
        share, ratio, across, down = draws
        area = (self.min_crop + (1 - self.min_crop) * share) * height * width
        ratio = math.exp((2 * ratio - 1) * math.log(_LONGEST))
        wide = min(max(round(math.sqrt(area * ratio)), 1), width)
        high = min(max(round(math.sqrt(area / ratio)), 1), height)
        left, top = round(across * (width - wide)), round(down * (height - high))
        return slice(top, top + high), slice(left, left + wide)

    def take(self, raw: NDArray[np.uint8], view: View) -> tuple[NDArray[np.uint8], bool]:
        """The part of the image, and whether to mirror it: cheaper once it is small.

        Args:
            raw: "height width channels".
            view: Which.
        """
        # For one sample Python's generator is ten times as fast as one that is vectorised.
        generator = random.Random(view.seed_for("image view"))
        draws = [generator.random() for _ in range(5)]
        rows, columns = self.box(raw.shape[0], raw.shape[1], draws[:4])
        raw = raw[rows, columns]
        if self.transform is not None:
            raw = self._transformed(self.transform, raw, view)
        return raw, self.flip and draws[4] < 0.5

    def _transformed(
        self, transform: Callable[[Tensor], Tensor], raw: NDArray[np.uint8], view: View
    ) -> NDArray[np.uint8]:
        # Only the CPU's generator: `torch.manual_seed` would change those of the devices too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(view.seed_for("image transform"))
            found = transform(torch.from_numpy(raw.transpose(2, 0, 1)))
        if (
            not isinstance(found, Tensor)
            or found.dtype != torch.uint8
            or found.ndim != 3
            or not found.numel()
        ):
            told = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                where="ImageViews.transform",
                found=f"{_named(transform)}, which makes {told} of a uint8 image",
                expected='uint8 "channels height width"',
                fix="leave conversion and normalisation out: encoders normalise on the device",
            )
        return np.ascontiguousarray(found.permute(1, 2, 0).numpy())


def _named(transform: Callable[[Tensor], Tensor]) -> str:
    if isinstance(transform, nn.Module):
        return repr(transform)
    named = transform if hasattr(transform, "__qualname__") else type(transform)
    return f"{named.__module__}.{named.__qualname__}"
