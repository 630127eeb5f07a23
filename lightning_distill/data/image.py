"""Images: read, resize, collate, augment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.data.files import looks_like, read_bytes
from lightning_distill.data.image_headers import image_size
from lightning_distill.data.image_views import ImageViews
from lightning_distill.data.processor import Processor
from lightning_distill.errors import ConfigError, SampleError
from lightning_distill.randomness import View, uniform
from lightning_distill.structures import Inputs

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded: a few kilobytes can claim gigabytes."""
_LARGE: Final = 7 / 3
"""How much a side may shrink for three taps to be enough."""
_LEAST: Final = 1.1
"""How much it must shrink for smoothing to change more than a tenth of a grey level on photographs."""


def read_image(path: Path, where: str) -> NDArray[np.uint8]:
    """Read a file and decode it, see `decode_image`.

    Args:
        path: File.
        where: Names file, row and field in errors.

    Raises:
        SampleError: If the file is missing, or holds no such image.
    """
    return decode_image(read_bytes(path, where), where, str(path))


def decode_image(data: bytes, where: str, name: str) -> NDArray[np.uint8]:
    """Decode an image with OpenCV, always to 8-bit RGB.

    JPEG, PNG, WebP and BMP. EXIF orientation is applied. Grey is repeated over the channels, palettes are
    looked up, 16 bits are scaled to 8, CMYK is converted without a colour profile. Transparency is dropped:
    a pixel keeps the colour stored under it.

    Args:
        data: The whole file.
        where: Names file, row and field in errors.
        name: Names the file in errors.

    Returns:
        uint8 "height width 3", RGB.

    Raises:
        SampleError: If it is no such image, damaged, or larger than `MAX_PIXELS`.
    """
    import cv2

    try:
        width, height = image_size(data)
        if width * height > MAX_PIXELS:
            raise ValueError(f"an image of {width} x {height} pixels")
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            raise ValueError(f"{looks_like(data[:200])} that OpenCV cannot decode")
    except (ValueError, cv2.error) as error:
        raise SampleError(
            where=where,
            found=f"{name}: {error}",
            expected=f"a whole JPEG, PNG, WebP or BMP image of at most {MAX_PIXELS} pixels",
            fix="restore or convert the file, or leave its cell empty to mark it absent",
        ) from error
    return np.asarray(decoded)


class ImageProcessor(Processor):
    """Resizes with OpenCV to a square, uint8 all the way: encoders normalise on the device.

    A side that shrinks is smoothed first, or averaged over areas where it shrinks much; one that grows is
    interpolated.

    Args:
        size: Side of the square, pixels.
        channels: 1 (grey) or 3 (RGB).
        keep_aspect: Where no random view is taken, cut to the largest centred square before resizing;
            otherwise the image is stretched to a square.
        views: Augmentation of the raw image: random crop, mirror image, transforms.
        max_shift: Augmentation: largest shift in each direction, as a share of the side.
        max_scale: Augmentation: largest growth, as a share of the size; 0.2 scales by 1/1.2 to 1.2.
        max_rotation: Augmentation: largest rotation either way, degrees.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        size: int = 224,
        channels: int = 3,
        max_shift: float = 0.0,
        max_scale: float = 0.0,
        max_rotation: float = 0.0,
        keep_aspect: bool = False,
        views: ImageViews | None = None,
    ) -> None:
        ranges = 0 <= max_shift < 0.5 and 0 <= max_scale <= 1 and 0 <= max_rotation <= 180
        if size < 1 or channels not in (1, 3) or not ranges:
            raise ConfigError(
                where="ImageProcessor",
                found=f"size={size}, channels={channels}, max_shift={max_shift}, max_scale={max_scale}, "
                f"max_rotation={max_rotation}",
                expected="a positive size, 1 or 3 channels, a shift of 0 or more and below 0.5, a scale "
                "between 0 and 1, a rotation between 0 and 180 degrees",
                fix="for example size=224, channels=3, max_shift=0.1, max_scale=0.1, max_rotation=10",
            )
        self.size, self.channels, self.keep_aspect, self.views = size, channels, keep_aspect, views
        self.max_shift, self.max_scale, self.max_rotation = max_shift, max_scale, max_rotation

    @property
    def varies(self) -> bool:
        """True with `views`: they are made of the raw image."""
        return self.views is not None

    @property
    def augments(self) -> bool:
        """Whether anything is set that augments."""
        return bool(self.varies or self.max_shift or self.max_scale or self.max_rotation)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Size, channels and whether the aspect ratio is kept."""
        return {"size": self.size, "channels": self.channels, "keep_aspect": self.keep_aspect}

    @property
    def view_settings(self) -> Mapping[str, Any]:
        """Everything that augments."""
        affine = {name: getattr(self, name) for name in ("max_shift", "max_scale", "max_rotation")}
        return affine | dict((self.views or ImageViews(min_crop=1)).settings)

    def portable_init_args(self, folder: Path) -> Mapping[str, Any]:
        """Without what augments."""
        return {"max_shift": 0.0, "max_scale": 0.0, "max_rotation": 0.0, "views": None}

    def prepare(self, raw: NDArray[np.uint8], view: View | None = None) -> Tensor:
        """Crop and resize to uint8 "channels size size"."""
        import cv2

        if raw.ndim == 2:
            raw = raw[:, :, None]
        if raw.dtype != np.uint8 or raw.ndim != 3 or raw.shape[2] not in (1, 3) or not raw.size:
            raise ValueError(f"an array of {raw.dtype} with the shape {raw.shape}, no uint8 grey or RGB")
        mirrored = False
        if self.views is not None and view is not None:
            raw, mirrored = self.views.take(raw, view)
        elif self.keep_aspect:
            raw = _centre_square(raw)
        if raw.shape[2] > self.channels:
            raw = cv2.cvtColor(raw, cv2.COLOR_RGB2GRAY)
        raw = self._resized(raw)
        if mirrored:
            raw = cv2.flip(raw, 1)
        # Still pixel by pixel: `collate` makes planes of them where the batch stands anyway.
        return (
            torch.from_numpy(raw.reshape(self.size, self.size, -1))
            .permute(2, 0, 1)
            .expand(self.channels, -1, -1)
        )

    def _resized(self, raw: Any) -> Any:
        import cv2

        size, (height, width) = self.size, raw.shape[:2]
        if max(height, width) > _LARGE * size:
            # Each side on its own: OpenCV averages areas only where both shrink.
            between = min(width, size), min(height, size)
            if between != (width, height):
                raw = cv2.resize(raw, between, interpolation=cv2.INTER_AREA)
        elif max(height, width) > _LEAST * size:
            raw = cv2.sepFilter2D(
                raw, -1, _taps(width / size), _taps(height / size), borderType=cv2.BORDER_REPLICATE
            )
        return raw if raw.shape[:2] == (size, size) else cv2.resize(raw, (size, size))

    def blank(self) -> Tensor:
        """A black image."""
        return torch.zeros(self.channels, self.size, self.size, dtype=torch.uint8)

    def collate(self, prepared: Sequence[Tensor]) -> Tensor:
        """Stack to uint8 "batch channels size size"."""
        if self.channels == 1:
            return torch.stack(list(prepared))
        import cv2

        batch = torch.empty(len(prepared), 3, self.size, self.size, dtype=torch.uint8)
        for image, planes in zip(prepared, batch.numpy(), strict=True):
            cv2.split(image.permute(1, 2, 0).numpy(), list(planes))
        return batch

    def augment(self, inputs: Inputs, seed: int, epoch: int, sample_id: NDArray[np.int64]) -> Inputs:
        """Shift, scale and rotate each image, in one interpolation; what enters repeats the border."""
        if not isinstance(inputs, Tensor) or not (self.max_shift or self.max_scale or self.max_rotation):
            return inputs
        draws = torch.from_numpy(2 * uniform(seed, epoch, sample_id, "image affine", 4) - 1)
        scale = torch.exp(draws[:, 0] * math.log1p(self.max_scale))
        angle = draws[:, 1] * math.radians(self.max_rotation)
        shift = draws[:, 2:] * 2 * self.max_shift
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False)
        moved = F.grid_sample(inputs.float(), grid, padding_mode="border", align_corners=False)
        return moved.round_().to(torch.uint8)


def _centre_square(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = raw.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return raw[top : top + side, left : left + side]


def _taps(shrinks: float) -> NDArray[np.float64]:
    """Weights before a bilinear step that shrinks by so much: nearly 0 1 0, to 1/4 1/2 1/4 for a half.

    Together with that step they are close to the triangle that torchvision's `antialias` uses. OpenCV rounds
    weights to 256ths, so they are whole ones, whose sum stays 1. It computes with whole numbers only where no
    kernel is 0 1 0, so that one is 1/4096 off.
    """
    side = max(round(64 * (shrinks - 1)), 1 / 16) / 256
    return np.array([side, 1 - 2 * side, side])
