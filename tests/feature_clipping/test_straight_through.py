"""The clamp forward, and nothing of it backward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_distill.feature_clipping import HardClip, StraightThroughClip
from tests.builders import same_bits
from tests.verification import compared

X = [-math.inf, -2.0, -1.0, -0.3, -0.0, 0.5, 1.0, 1.01, math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forward_is_the_clamp(dtype: torch.dtype) -> None:
    x = torch.tensor([X], dtype=dtype)
    expected = torch.from_numpy(np.clip(x.double().numpy(), -1, 1)).to(dtype)
    assert same_bits(StraightThroughClip(1.0)(x), expected)
    compared(StraightThroughClip, StraightThroughClip(1.0)(x), expected, by="numpy.clip")
    assert same_bits(StraightThroughClip(1.0)(x), HardClip(1.0)(x))


def test_gradient_passes_as_it_is() -> None:
    x, g = torch.tensor([X], requires_grad=True), torch.randn(1, len(X))
    StraightThroughClip(1.0)(x).backward(g)
    assert x.grad is not None
    assert same_bits(x.grad, g)
