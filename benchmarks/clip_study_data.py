"""What `clip_study.py` trains on: stored features of images, number words and human speech, paired by class.

Every item is one fixed vector, normalised by the mean and the deviation of its modality over training items.
Two of six speakers and every fourth language are in the test set only.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.data import AudioProcessor
from lightning_distill.data.datasets import read_fsdd
from lightning_distill.structures import Batch

MODALITIES = ("image", "text", "audio")
SIZES = {"train": 10000, "val": 2000, "test": 2000}
SPLITS = tuple(SIZES)
HELD_OUT_SPEAKERS = ("nicolas", "theo")
INNER = 0.15
"""Share of the source items that is kept for validation."""
BUCKETS = 512


@dataclass(frozen=True)
class Pool:
    """Items of one modality.

    Attributes:
        x: float32 "items features".
        digit: Class of each.
        split: Index into `SPLITS` of each.
    """

    x: Tensor
    digit: NDArray[np.int64]
    split: NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Class-paired triples of one split.

    Attributes:
        x: modality -> float32 "rows features".
        target: int64 "rows".
    """

    x: Mapping[str, Tensor]
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)


def read_pools(folder: Path, store: Path | None = None) -> dict[str, Pool]:
    """The three pools.

    Args:
        folder: Holds the digits.
        store: File in which they are kept from one call to the next.
    """
    if store is not None and store.exists():
        with np.load(store) as found:
            return {
                m: Pool(torch.from_numpy(found[f"{m}_x"]), found[f"{m}_digit"], found[f"{m}_split"])
                for m in MODALITIES
            }
    pools = {"image": images(folder), "text": words(folder), "audio": sounds(folder)}
    if store is not None:
        store.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"{m}_x": p.x.numpy() for m, p in pools.items()}
        arrays |= {f"{m}_digit": p.digit for m, p in pools.items()}
        arrays |= {f"{m}_split": p.split for m, p in pools.items()}
        np.savez(store, **arrays)
    return pools


def images(folder: Path) -> Pool:
    """MNIST, upright and centred, 12 x 12: the means of 2 x 2 pixels without the margin."""
    with np.load(folder / "mnist10k.npz") as mnist:
        pixels, digit = torch.from_numpy(mnist["x"]).float().view(-1, 28, 28), mnist["y"].astype(np.int64)
    split = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [6800, 1200, 2000]))
    return _pool(F.avg_pool2d(upright(pixels)[:, None, 2:26, 2:26], 2).flatten(1), digit, split)


def upright(x: Tensor) -> Tensor:
    """Shear and shift images, "images 28 28", so that ink is centred and its axis stands upright."""
    place, ink = torch.arange(28.0), x.sum((1, 2))
    rows, columns = x.sum(2), x.sum(1)
    down, right = (rows @ place) / ink, (columns @ place) / ink
    dy, dx = place - down[:, None], place - right[:, None]
    slant = torch.einsum("nij,ni,nj->n", x, dy, dx) / (rows * dy**2).sum(1)
    affine = torch.zeros(len(x), 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = 1
    affine[:, 0, 1] = slant
    affine[:, 0, 2], affine[:, 1, 2] = (right - 13.5) / 14, (down - 13.5) / 14
    grid = F.affine_grid(affine, [len(x), 1, 28, 28], align_corners=False)
    return F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]


def words(folder: Path) -> Pool:
    """Number words: counts of their n-grams of one to three bytes, hashed to 512 buckets."""
    lines = [line.split(",", 2) for line in (folder / "number_words_78lang.csv").read_text().splitlines()[1:]]
    held_out = set(sorted({language for _, language, _ in lines})[::4])
    inner = np.random.default_rng(1).random(len(lines)) < INNER
    split = [2 if lang in held_out else int(v) for (_, lang, _), v in zip(lines, inner, strict=True)]
    counts = torch.stack([ngrams(text) for _, _, text in lines])
    return _pool(counts, np.array([int(digit) for digit, _, _ in lines]), np.array(split))


def ngrams(text: str) -> Tensor:
    """Root of the counts of hashed n-grams, "buckets"."""
    raw = b"^" + text.casefold().encode() + b"$"
    counts = torch.zeros(BUCKETS)
    for length in (1, 2, 3):
        for start in range(len(raw) - length + 1):
            counts[zlib.crc32(raw[start : start + length]) % BUCKETS] += 1
    return counts.sqrt()


def sounds(folder: Path) -> Pool:
    """Log-mel spectrograms of spoken digits, 24 bands, each recording stretched to 12 frames."""
    recordings = read_fsdd(folder)
    processor = AudioProcessor(sample_rate=8000, seconds=1.0, mels=24, hop=0.01, dynamic_range=40.0)
    heard = processor.collate([processor.prepare(wave) for wave in recordings.waveforms]).mT
    lengths = [len(wave.samples) / 8000 for wave in recordings.waveforms]
    stretched = [_stretched(x, seconds) for x, seconds in zip(heard, lengths, strict=True)]
    inner = np.random.default_rng(2).random(len(lengths)) < INNER
    split = np.where(np.isin(recordings.speaker, HELD_OUT_SPEAKERS), 2, inner.astype(np.int64))
    return _pool(torch.stack(stretched), recordings.digit.astype(np.int64), split)


def _stretched(spectrogram: Tensor, seconds: float, frames: int = 12) -> Tensor:
    """The recording without the silence around it; a spectrogram, "bands frames", lasts one second."""
    total = spectrogram.shape[1]
    edge = int(max(1.0 - seconds, 0.0) / 2 * total)
    part = spectrogram[None, :, edge : total - edge]
    part = F.interpolate(part, size=frames, mode="linear", align_corners=False)[0]
    return (part - part.mean(dim=1, keepdim=True)).flatten()


def _pool(x: Tensor, digit: NDArray[np.int64], split: NDArray[np.int64]) -> Pool:
    known = x[torch.from_numpy(split == 0)]
    return Pool((x - known.mean()) / known.std(), digit, split)


def pair(pools: Mapping[str, Pool], seed: int, split: str, size: int | None = None) -> Rows:
    """Triples of a split: which items meet is a function of the seed.

    Args:
        pools: As read.
        seed: Of the pairing.
        split: "train", "val" or "test".
        size: Rows; as in `SIZES` where not given.
    """
    number, count = SPLITS.index(split), size or SIZES[split]
    rng = np.random.default_rng([seed, number])
    target = rng.permutation(np.arange(count) % 10)
    x = {}
    for modality, pool in pools.items():
        rows = np.zeros(count, np.int64)
        for digit in range(10):
            there = np.flatnonzero((pool.digit == digit) & (pool.split == number))
            rows[target == digit] = rng.choice(there, (target == digit).sum())
        x[modality] = pool.x[torch.from_numpy(rows)]
    return Rows(x, torch.from_numpy(target))


def batch_of(rows: Rows, at: Tensor | slice, modalities: Sequence[str] = MODALITIES) -> Batch:
    """Some rows as the model reads them."""
    target = rows.target[at]
    there, ids = torch.ones(len(target), dtype=torch.bool), torch.zeros(len(target), dtype=torch.int64)
    return {
        "inputs": {m: rows.x[m][at] for m in modalities},
        "present": dict.fromkeys(modalities, there),
        "target": target,
        "sample_id": ids,
        "domain": ids,
    }
