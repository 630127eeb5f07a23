"""What `cross_domain.py` trains on: pairs of a domain with labels and one whose labels nobody may use.

| pair | source, labelled | target | kept apart |
|---|---|---|---|
| synthetic to human speech | digits said by espeak-ng | Free Spoken Digit Dataset | speakers theo, nicolas |
| MNIST to optdigits, and back | 20 x 20 without margin | 8 x 8 | images |
| Twemoji to OpenMoji, Noto, Fluent | drawings of some concepts | of others | concepts |

All sources keep all labels; whoever trains hides those of the target. What is in which split is a function of
the seed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cross_domain_speech import synthetic_speech
from numpy.typing import NDArray

from lightning_distill.data import AudioProcessor, ImageProcessor
from lightning_distill.data.datasets import read_fsdd
from lightning_distill.data.datasets.digits import DIGITS, handwriting
from lightning_distill.data.processor import Processor
from lightning_distill.data.source import DataSource, SampleTable
from lightning_distill.randomness import derive, generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from emoji_manifest import WHITE, group_of, read_names, read_sheet

SPEECH = "synthetic to human speech"
DIGIT_PAIRS = {"MNIST to optdigits": ("mnist", "optdigits"), "optdigits to MNIST": ("optdigits", "mnist")}
STYLES = {"Twemoji to OpenMoji": "openmoji", "Twemoji to Noto": "noto", "Twemoji to Fluent": "fluent3d"}
PAIRS = (SPEECH, *DIGIT_PAIRS, *STYLES)
TEST_SPEAKERS = ("nicolas", "theo")
VAL = 0.1
"""Share of the training samples (concepts, takes) that a model is chosen on."""


@dataclass(frozen=True)
class Pool:
    """Everything there is of one domain.

    Attributes:
        name: Tells it from others; what a pretrained encoder makes of it is kept under this name.
        items: modality -> raw samples.
        label: int64, class of each.
        key: What belongs together has one key: a concept, a voice, a take.
    """

    name: str
    items: dict[str, Sequence[Any]]
    label: NDArray[np.int64]
    key: NDArray[np.str_]


class PoolSource(DataSource):
    """Some samples of a pool.

    Args:
        pool: All samples.
        rows: Which of them, row numbers of the pool.
        split: Split of each of these, index into `SPLITS`.
        classes: Names of the classes.
        trained: Modalities that only training and validation samples have.
    """

    def __init__(
        self,
        pool: Pool,
        rows: NDArray[np.int64],
        split: NDArray[np.int8],
        classes: tuple[str, ...],
        trained: Sequence[str] = (),
    ) -> None:
        self.classes, self.domains = classes, (pool.name,)
        self.pool, self.rows = pool, rows
        self._samples = SampleTable(
            sample_id=np.array([derive(pool.name, int(row)) for row in rows], np.int64),
            target=pool.label[rows],
            split=split,
            domain=np.zeros(len(rows), np.int64),
            present={m: (split != 2) | (m not in trained) for m in pool.items},
        )

    @property
    def samples(self) -> SampleTable:
        """The samples, in the order of the pool."""
        return self._samples

    def load(self, modality: str, row: int) -> Any:
        """The raw sample."""
        return self.pool.items[modality][self.rows[row]]

    def describe(self, row: int) -> str:
        """Pool and row number there."""
        return f"{self.pool.name} {self.rows[row]}"


@dataclass(frozen=True)
class DomainPair:
    """Two domains with the same classes.

    Attributes:
        name: One of `PAIRS`.
        modality: What the student sees.
        source: Splits train and val.
        target: Splits train, val and test, with all labels.
        processors: For the student.
    """

    name: str
    modality: str
    source: PoolSource
    target: PoolSource
    processors: dict[str, Processor]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes


def read_pair(name: str, folder: Path, work: Path, seed: int) -> DomainPair:
    """One of the pairs.

    Args:
        name: One of `PAIRS`.
        folder: With `digits` and `emoji`.
        work: Where made speech is kept.
        seed: Of the splits.
    """
    if name == SPEECH:
        return _speech(folder / "digits", work, seed)
    if name in DIGIT_PAIRS:
        return _digits(name, folder / "digits", seed)
    return _emoji(name, folder / "emoji", seed)


def _parted(keys: NDArray[np.str_], shares: Sequence[float], *about: int | str) -> NDArray[np.int8]:
    """Part number of each sample, where whole keys go into one part: at random, by the seed in `about`."""
    names, number = np.unique(keys, return_inverse=True)
    ends = np.round(np.cumsum(shares) * len(names)).astype(np.int64)
    place = np.argsort(generator("cross-domain split", *about).permutation(len(names)))
    return np.searchsorted(ends, place, side="right")[number].astype(np.int8)


# -- speech -------------------------------------------------------------------------------------------


def _speech(folder: Path, work: Path, seed: int) -> DomainPair:
    made, found = synthetic_speech(work), _human_speech(folder)
    synthetic = Pool("synthetic speech", {"audio": made.waveforms}, made.digit, made.voice)
    voice = np.char.partition(made.voice, "+")[:, 2]  # whoever speaks with two accents is one speaker
    source = PoolSource(
        synthetic, np.arange(len(voice)), _parted(voice, (1 - VAL, VAL), SPEECH, "source", seed), DIGITS
    )
    speaker = np.char.partition(found.key, " ")[:, 0]
    split = _parted(found.key, (1 - VAL, VAL), SPEECH, "target", seed)
    split[np.isin(speaker, TEST_SPEAKERS)] = 2
    target = PoolSource(found, np.arange(len(split)), split, DIGITS)
    processor = AudioProcessor(8000, seconds=0.7, mels=32, hop=0.02, dynamic_range=30.0, max_shift=0.1)
    return DomainPair(SPEECH, "audio", source, target, {"audio": processor})


@cache
def _human_speech(folder: Path) -> Pool:
    found = read_fsdd(folder)
    key = np.char.add(np.char.add(found.speaker, " "), found.take.astype(np.str_))
    return Pool("human speech", {"audio": found.waveforms}, found.digit, key)


# -- handwriting --------------------------------------------------------------------------------------


def _digits(name: str, folder: Path, seed: int) -> DomainPair:
    pools = {"mnist": _mnist(folder), "optdigits": _optdigits()}
    first, second = (pools[part] for part in DIGIT_PAIRS[name])
    source = PoolSource(
        first, np.arange(len(first.key)), _parted(first.key, (1 - VAL, VAL), name, "source", seed), DIGITS
    )
    shares = (0.7 * (1 - VAL), 0.7 * VAL, 0.3)
    target = PoolSource(
        second, np.arange(len(second.key)), _parted(second.key, shares, name, "target", seed), DIGITS
    )
    processor = ImageProcessor(size=16, channels=1, max_shift=0.1, max_scale=0.1, max_rotation=10)
    return DomainPair(name, "image", source, target, {"image": processor})


@cache
def _mnist(folder: Path) -> Pool:
    """Without its margin, as optdigits has none."""
    with np.load(folder / "mnist10k.npz") as mnist:
        images, label = mnist["x"].reshape(-1, 28, 28)[:, 4:24, 4:24], mnist["y"].astype(np.int64)
    return Pool("MNIST", {"image": images}, label, np.arange(len(label)).astype(np.str_))


@cache
def _optdigits() -> Pool:
    bank = handwriting("target")
    images = [bank.load(item) for item in range(len(bank.label))]
    return Pool("optdigits", {"image": images}, bank.label, np.arange(len(images)).astype(np.str_))


# -- emoji --------------------------------------------------------------------------------------------


def _emoji(name: str, folder: Path, seed: int) -> DomainPair:
    """40 % of the concepts are labelled in Twemoji, others unlabelled in the target style, 20 % its test."""
    first, second = _drawings(folder, "twemoji"), _drawings(folder, STYLES[name])
    inner = 0.4 * np.array([1 - VAL, VAL, 1 - 2 * VAL, 2 * VAL])  # validators need some rows
    shares = (*inner, 0.2)  # source train and val, target train, val and test
    part = _parted(first.pool.key, shares, "emoji", seed)
    there, whole = np.flatnonzero(first.there & (part < 2)), first.classes
    source = PoolSource(first.pool, there, part[there], whole)
    there = np.flatnonzero(second.there & (part >= 2))
    target = PoolSource(second.pool, there, part[there] - np.int8(2), whole, trained=("text",))
    processor = ImageProcessor(size=16, max_shift=0.1, max_scale=0.2, max_rotation=15)
    return DomainPair(name, "image", source, target, {"image": processor})


@dataclass(frozen=True)
class _Style:
    pool: Pool
    there: NDArray[np.bool_]
    classes: tuple[str, ...]


@cache
def _drawings(folder: Path, style: str) -> _Style:
    """The drawings of a style, and which are not blank."""
    rows = read_names(folder)
    tiles = np.ascontiguousarray(read_sheet(folder, style, len(rows))[..., ::-1])
    classes = tuple(sorted({row["group"] for row in rows}))
    label = np.array([classes.index(row["group"]) for row in rows])
    names = [row["name"] for row in rows]
    pool = Pool(style, {"image": tiles, "text": names}, label, np.array([group_of(name) for name in names]))
    return _Style(pool, tiles.min(axis=(1, 2, 3)) < WHITE, classes)
