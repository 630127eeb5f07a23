"""One raw sample as a cell of a table in Weights & Biases."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from lightning_distill.data.source import Waveform

_SIDE: Final = 128
"""Pixels of the longer side of a picture."""
_CHARACTERS: Final = 1000
_SECONDS: Final = 10.0


def media_cell(raw: Any) -> Any:
    """A small picture, a sound, or a text; None where there is nothing, or nothing that can be shown.

    Args:
        raw: As a `DataSource` loads it.

    >>> media_cell("a" * 2000)[-4:]
    'a...'
    """
    if isinstance(raw, str):
        return raw if len(raw) <= _CHARACTERS else raw[:_CHARACTERS] + "..."
    if isinstance(raw, Waveform):
        import wandb

        length = int(_SECONDS * raw.sample_rate)
        return wandb.Audio(raw.samples[:length], sample_rate=raw.sample_rate)
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim in (2, 3):
        import cv2
        import wandb

        scale = _SIDE / max(raw.shape[:2])
        small = raw
        if scale < 1:
            size = tuple(max(1, round(side * scale)) for side in (raw.shape[1], raw.shape[0]))
            small = cv2.resize(raw, size, interpolation=cv2.INTER_AREA)
        return wandb.Image(small.squeeze())
    return None
