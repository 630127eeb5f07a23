"""An image as people hold it in memory, as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.errors import SampleError


def image_array(image: Any, where: str) -> NDArray[np.uint8]:
    """A PIL image, or an array that is one already, as uint8 "height width channels" or "height width".

    Args:
        image: What the user has given.
        where: Names the sample in errors.

    Raises:
        SampleError: If it is something else; says how tensors and floats become such an array.
    """
    if callable(getattr(image, "convert", None)):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        planes = image.shape[2] if image.ndim == 3 else 1
        if image.ndim in (2, 3) and planes in (1, 3):
            return image
    shape, dtype = (getattr(image, name, None) for name in ("shape", "dtype"))
    told = "" if shape is None else f" of {dtype} with the shape {tuple(shape)}"
    raise SampleError(
        where=where,
        found=f"a {type(image).__name__}{told}",
        expected='a file, a PIL image, or a uint8 NumPy array "height width channels" of 1 or 3 channels',
        fix="a tensor with channels first becomes one by x.permute(1, 2, 0).numpy(), numbers from 0 to 1 by "
        "(255 * x).round().astype(np.uint8)",
    )
