"""What `pairs.py` trains on: images, words and speech, paired by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.data import AudioProcessor, ByteTextProcessor, ImageProcessor
from lightning_distill.data.datasets import read_fsdd
from lightning_distill.structures import Batch

MODALITIES = ("image", "text", "audio")
SIZES = {"train": 3000, "val": 1000, "test": 1000}
HELD_OUT_SPEAKERS = ("nicolas", "theo")


@dataclass(frozen=True)
class Pool:
    """Prepared items of one modality, with class and split (0 train, 1 val, 2 test)."""

    items: dict[str, Tensor]
    digit: NDArray[np.int64]
    split: NDArray[np.int64]


def read_pools(folder: Path) -> dict[str, Pool]:
    return {"image": images(folder), "text": words(folder), "audio": sounds(folder)}


def images(folder: Path) -> Pool:
    with np.load(folder / "mnist10k.npz") as mnist:
        x, y = mnist["x"].reshape(-1, 28, 28, 1), mnist["y"].astype(np.int64)
    processor = ImageProcessor(size=12, channels=1)
    prepared = processor.collate([processor.prepare(image) for image in x])
    split = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7000, 1000, 2000]))
    return Pool({"x": prepared}, y, split)


def words(folder: Path) -> Pool:
    lines = [line.split(",", 2) for line in (folder / "number_words_78lang.csv").read_text().splitlines()[1:]]
    languages = sorted({language for _, language, _ in lines})
    held_out = set(languages[::4])
    inner = np.random.default_rng(1).random(len(lines)) < 0.15
    split = [2 if lang in held_out else int(v) for (_, lang, _), v in zip(lines, inner, strict=True)]
    processor = ByteTextProcessor(max_length=32)
    prepared = processor.collate([processor.prepare(text) for _, _, text in lines])
    return Pool(prepared, np.array([int(digit) for digit, _, _ in lines]), np.array(split))


def sounds(folder: Path) -> Pool:
    recordings = read_fsdd(folder)
    processor = AudioProcessor(sample_rate=8000, seconds=0.7, mels=32, hop=0.02, dynamic_range=30.0)
    prepared = processor.collate([processor.prepare(wave) for wave in recordings.waveforms])
    inner = np.random.default_rng(2).random(len(recordings.digit)) < 0.15
    split = np.where(np.isin(recordings.speaker, HELD_OUT_SPEAKERS), 2, inner.astype(np.int64))
    return Pool({"x": prepared}, recordings.digit.astype(np.int64), split)


@dataclass(frozen=True)
class Triples:
    """Class-paired triples of one split: row numbers into the pools, and classes."""

    rows: dict[str, NDArray[np.int64]]
    target: Tensor


def pair(pools: dict[str, Pool], seed: int, split: str) -> Triples:
    number = ("train", "val", "test").index(split)
    rng = np.random.default_rng([seed, number])
    target = rng.permutation(np.arange(SIZES[split]) % 10)
    rows = {m: np.zeros(len(target), np.int64) for m in MODALITIES}
    for modality, pool in pools.items():
        for digit in range(10):
            there = np.flatnonzero((pool.digit == digit) & (pool.split == number))
            at = target == digit
            rows[modality][at] = rng.choice(there, at.sum())
    return Triples(rows, torch.from_numpy(target))


def batch_of(pools: dict[str, Pool], triples: Triples, at: Tensor, modalities: Sequence[str]) -> Batch:
    inputs: dict[str, Any] = {}
    for modality in modalities:
        items = {k: x[triples.rows[modality][at.numpy()]] for k, x in pools[modality].items.items()}
        inputs[modality] = items if modality == "text" else items["x"]
    there = torch.ones(len(at), dtype=torch.bool)
    ids = torch.zeros(len(at), dtype=torch.int64)
    present = dict.fromkeys(modalities, there)
    return {
        "inputs": inputs,
        "present": present,
        "target": triples.target[at],
        "sample_id": ids,
        "domain": ids,
    }
