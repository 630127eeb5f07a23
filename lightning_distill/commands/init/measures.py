"""How large the images are, how long the texts and the sounds, of some of the samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from lightning_distill.commands.init.columns import Column
from lightning_distill.data.files import read_bytes
from lightning_distill.data.image_headers import image_size
from lightning_distill.errors import SampleError

FILES: Final = 200
"""Files of a modality that are opened."""
_MOST: Final = 0.95


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


def measure_images(column: Column, root: Path) -> Images:
    """Look at the headers of some images."""
    sides = []
    for path in _some(column, root):
        try:
            sides.append(min(image_size(read_bytes(path, path))))
        except (SampleError, ValueError):
            continue  # doctor names what cannot be read
    return Images(len(sides), int(np.median(sides)) if sides else 0)


def measure_texts(column: Column) -> Texts:
    """Count the bytes of the texts."""
    lengths = [len(cell.encode("utf-8", "replace")) for cell in column.cells]
    return Texts(len(lengths), _longest(lengths))


def measure_sounds(column: Column, root: Path) -> Sounds:
    """Look at the headers of some sounds."""
    import soundfile

    rates, seconds = [], []
    for path in _some(column, root):
        try:
            found = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError, RuntimeError):
            continue
        if found.samplerate > 0:
            rates.append(found.samplerate)
            seconds.append(found.frames / found.samplerate)
    if not rates:
        return Sounds(0, 0, 0.0)
    return Sounds(len(rates), int(np.median(rates)), float(np.quantile(seconds, _MOST)))


def _some(column: Column, root: Path) -> Iterable[Path]:
    """A spread of the files that are there."""
    count = min(len(column.cells), FILES)
    paths = (root / column.cells[int(at)] for at in np.linspace(0, len(column.cells) - 1, count))
    return (path for path in paths if path.is_file())


def _longest(lengths: list[int]) -> int:
    return int(np.quantile(lengths, _MOST)) if lengths else 0
