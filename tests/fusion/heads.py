"""Heads of the shelf, and what they are given: what the tests of all heads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.fusion import FusionHead, TensorFusion
from lightning_distill.structures import Feature, Tokens
from tests.shelves import build, concrete

HEADS = pytest.mark.parametrize("cls", concrete("fusion"))
COUNTS = pytest.mark.parametrize("count", [1, 2, 3, 4])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
WIDTHS = {"image": 5, "text": 3, "audio": 4, "touch": 2}
BATCH = 4

Features = Mapping[str, Feature]


SMALL: dict[Any, dict[str, int]] = {TensorFusion: {"factor_dim": 4}}
"""With 16 its product of four modalities has ten million weights."""


def make(cls: Any, widths: Mapping[str, int]) -> FusionHead:
    return build(cls, widths, **SMALL.get(cls, {}))


def make_head(cls: Any, count: int) -> FusionHead:
    return make(cls, dict(list(WIDTHS.items())[:count]))


def draw(head: FusionHead, size: int = BATCH, dtype: torch.dtype = torch.float32) -> dict[str, Feature]:
    """Vectors, or sequences of another length for each modality, padded at the end or not."""
    if not head.reads_tokens:
        return {m: torch.randn(size, dim, dtype=dtype) for m, dim in head.feature_dims.items()}
    found: dict[str, Feature] = {}
    for i, (modality, dim) in enumerate(head.feature_dims.items()):
        lengths = torch.arange(size) % (i + 2) + 1
        values = torch.randn(size, i + 2, dim, dtype=dtype)
        found[modality] = Tokens(values, torch.arange(i + 2) < lengths[:, None])
    return found


def values_of(x: Feature) -> Tensor:
    return x.values if isinstance(x, Tokens) else x


def with_values(x: Feature, values: Tensor) -> Feature:
    return Tokens(values, x.mask) if isinstance(x, Tokens) else values


def rows_of(x: Feature, rows: Any) -> Feature:
    return Tokens(x.values[rows], x.mask[rows]) if isinstance(x, Tokens) else x[rows]


def leaves_of(features: Features) -> dict[str, Feature]:
    return {m: with_values(x, values_of(x).clone().requires_grad_()) for m, x in features.items()}


def gone(x: Feature, present: Tensor) -> Tensor:
    """Which entries of the values are not there."""
    if isinstance(x, Tokens):
        return ~(x.mask & present[:, None])[:, :, None].expand_as(x.values)
    return ~present[:, None].expand_as(x)


def everyone(features: Features) -> dict[str, Tensor]:
    return {m: torch.ones(len(values_of(x)), dtype=torch.bool) for m, x in features.items()}


def masks(head: FusionHead, rows: list[int]) -> dict[str, Tensor]:
    bits = torch.tensor(rows)
    found = {m: (bits >> i) % 2 == 1 for i, m in enumerate(head.modalities)}
    nobody = ~torch.stack(list(found.values())).any(dim=0)
    found[head.modalities[0]] |= nobody
    return found
