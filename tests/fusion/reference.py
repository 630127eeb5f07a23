"""What the references of the heads share: samples, and running a head on them. NumPy, float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_distill.fusion import FusionHead
from lightning_distill.structures import Feature, Tokens

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Sequences = tuple[Array, Mask]
"""Values "batch tokens dim" and which of them are there, "batch tokens"."""

WIDTHS = {"image": 5, "text": 3, "audio": 4}
BATCH = 7
HOLES = pytest.mark.parametrize("holes", [False, True])
COUNTS = pytest.mark.parametrize("count", [1, 2, 3])


def sample(count: int, holes: bool) -> tuple[dict[str, int], dict[str, Array], dict[str, Mask]]:
    """Widths, features and presence, by name; with holes, every combination of modalities but none occurs."""
    rng = np.random.default_rng(count)
    widths = dict(sorted(list(WIDTHS.items())[:count]))
    rows = np.arange(BATCH) % (2**count - 1) + 1
    present = {m: (rows >> i) % 2 == 1 if holes else np.ones(BATCH, bool) for i, m in enumerate(widths)}
    return widths, {m: rng.normal(size=(BATCH, d)) for m, d in widths.items()}, present


def token_sample(count: int, holes: bool) -> tuple[dict[str, int], dict[str, Sequences], dict[str, Mask]]:
    """The same with sequences of 3, 4, ... tokens, some of them padded."""
    widths, _, present = sample(count, holes)
    rng, features = np.random.default_rng(count), dict[str, Sequences]()
    for i, (modality, width) in enumerate(widths.items()):
        lengths = np.arange(BATCH) % (i + 3) + 1
        features[modality] = (
            rng.normal(size=(BATCH, i + 3, width)),
            np.arange(i + 3) < lengths[:, None],
        )
    return widths, features, present


def run(head: FusionHead, features: Mapping[str, Array | Sequences], present: Mapping[str, Mask]) -> Array:
    """What the head makes of it, in float64."""
    given: dict[str, Feature] = {}
    for modality, x in features.items():
        sequences = isinstance(x, tuple)
        given[modality] = Tokens(*map(torch.from_numpy, x)) if sequences else torch.from_numpy(x)
    x = head.double()(given, {m: torch.from_numpy(p) for m, p in present.items()})
    return np.asarray(x.detach().numpy())


def values(module: nn.Module) -> dict[str, Array]:
    """Weights, made large enough for every term of a formula to show."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def sigmoid(x: Array) -> Array:
    """Of each entry."""
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    """x * Phi(x) of each entry, with the distribution function of the normal law."""
    return np.asarray(x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2)


def power_normalized(z: Array) -> Array:
    """Signed square root, in the form that has a slope at 0, and L2 norm over the last dimension."""
    s = z / np.sqrt(np.abs(z) + 1e-6)
    return np.asarray(s / np.sqrt((s**2).sum(axis=-1, keepdims=True)))


def softmax(x: Array) -> Array:
    """Of a vector."""
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())
