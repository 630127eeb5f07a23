"""What goes wrong in `clip_study.py`: broken training samples, and faults of one modality at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from clip_study_data import MODALITIES, Rows

BROKEN_SHARE: Final = 0.01
BROKEN_FACTOR: Final = 100.0
SPIKED_SHARE: Final = 0.05
SPIKE: Final = 1000.0


def broken(rows: Rows, seed: int) -> Rows:
    """1 % of the rows with their audio times 100 and a label drawn at random.

    Args:
        rows: Normalised; they are not changed.
        seed: Of the choice.
    """
    rng = np.random.default_rng([seed, 77])
    at = torch.from_numpy(rng.permutation(len(rows))[: round(BROKEN_SHARE * len(rows))])
    audio, target = rows.x["audio"].clone(), rows.target.clone()
    audio[at] *= BROKEN_FACTOR
    target[at] = torch.from_numpy(rng.integers(0, 10, len(at)))
    return Rows({**rows.x, "audio": audio}, target)


def spiked(rows: Rows, modality: str, seed: int) -> Rows:
    """5 % of the entries of one modality, of every row, at +1000 or -1000.

    Args:
        rows: They are not changed.
        modality: Whose.
        seed: Of the choice.
    """
    draw = torch.Generator().manual_seed(1000 * seed + MODALITIES.index(modality))
    x = rows.x[modality]
    hit = torch.rand(x.shape, generator=draw) < SPIKED_SHARE
    sign = torch.randint(2, x.shape, generator=draw) * 2.0 - 1.0
    return Rows({**rows.x, modality: torch.where(hit, SPIKE * sign, x)}, rows.target)


def zeroed(rows: Rows, modality: str) -> Rows:
    """One modality at its mean, 0, for every row; the model is not told that it is missing."""
    return Rows({**rows.x, modality: torch.zeros_like(rows.x[modality])}, rows.target)


def conditions(rows: Rows, seed: int) -> Mapping[str, Rows]:
    """Name -> the rows as they are, with one modality spiked, and with one zeroed."""
    found = {"clean": rows}
    found |= {f"spiked {m}": spiked(rows, m, seed) for m in MODALITIES}
    return found | {f"zeroed {m}": zeroed(rows, m) for m in MODALITIES}
