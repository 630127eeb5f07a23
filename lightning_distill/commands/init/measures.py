"""How large the images are, how long the texts and the sounds, of some of the samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from lightning_distill.commands.init.columns import Column
from lightning_distill.data.files import read_bytes
from lightning_distill.data.image_headers import image_size
from lightning_distill.errors import SampleError

FILES: Final = 200
"""Files of a modality that are opened."""
_MOST: Final = 0.95
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """Sizes seen.

    Attributes:
        count: Images looked at.
        side: Median of their shorter sides, pixels; 0 where none could be read.
    """

    count: int
    side: int


@dataclass(frozen=True)
class Texts:
    """Lengths seen.

    Attributes:
        count: Texts looked at.
        length: 95 % are no longer than this, bytes in UTF-8.
    """

    count: int
    length: int


@dataclass(frozen=True)
class Sounds:
    """Rates and lengths seen.

    Attributes:
        count: Sounds looked at.
        rate: Median sample rate, Hz; 0 where none could be read.
        seconds: 95 % are no longer than this.
    """

    count: int
    rate: int
    seconds: float


def measure_images(files: Iterable[bytes]) -> Images:
    """Look at the headers of some images."""
    sides = []
    for data in files:
        try:
            sides.append(min(image_size(data)))
        except ValueError:
            continue  # doctor names what cannot be read
    return Images(len(sides), int(np.median(sides)) if sides else 0)


def measure_texts(texts: Sequence[str]) -> Texts:
    """Count the bytes of the texts."""
    lengths = [len(text.encode("utf-8", "replace")) for text in texts]
    return Texts(len(lengths), _longest(lengths))


def measure_sounds(files: Iterable[bytes]) -> Sounds:
    """Look at the headers of some sounds."""
    import soundfile

    rates, seconds = [], []
    for data in files:
        try:
            found = soundfile.info(BytesIO(data))
        except (soundfile.SoundFileError, OSError, RuntimeError):
            continue
        if found.samplerate > 0:
            rates.append(found.samplerate)
            seconds.append(found.frames / found.samplerate)
    if not rates:
        return Sounds(0, 0, 0.0)
    return Sounds(len(rates), int(np.median(rates)), float(np.quantile(seconds, _MOST)))


def spread(items: Sequence[T]) -> list[T]:
    """Some of the items, evenly."""
    at = np.linspace(0, len(items) - 1, min(len(items), FILES)).astype(np.int64)
    return [items[int(i)] for i in at]


def files_of(column: Column, root: Path) -> Iterator[bytes]:
    """The content of some of the files that a column names."""
    for cell in spread(column.cells):
        with contextlib.suppress(SampleError):
            yield read_bytes(root / cell, cell)


def _longest(lengths: list[int]) -> int:
    return int(np.quantile(lengths, _MOST)) if lengths else 0
