"""x = clip(x, -eps, eps), bit for bit, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import HardClip
from lightning_distill.units import StandardDeviation, Unit
from tests.builders import same_bits
from tests.verification import compared, gradchecked

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, 3e38, -3e38, 0.3, -0.3, 2.0]


@pytest.mark.parametrize("epsilon", [0.3, 1e-3, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_formula(dtype: type, epsilon: float) -> None:
    x = np.array([SPECIAL, list(np.random.default_rng(0).normal(size=len(SPECIAL)))], dtype=dtype)
    expected = np.clip(x, -dtype(epsilon), dtype(epsilon))
    found = HardClip(epsilon)(torch.from_numpy(x))
    assert same_bits(found, torch.from_numpy(expected))
    compared(HardClip, found, expected, by="numpy.clip")


def test_equals_the_formula_in_bfloat16() -> None:
    x = torch.tensor([SPECIAL]).bfloat16()
    bound = torch.tensor(0.3).bfloat16().item()
    expected = torch.from_numpy(np.clip(x.float().numpy(), np.float32(-bound), np.float32(bound)))
    assert same_bits(HardClip(0.3)(x), expected.bfloat16())


@pytest.mark.parametrize("unit", [None, StandardDeviation()])
def test_gradient_is_1_inside_and_on_the_bound_and_0_beyond(unit: Unit | None) -> None:
    if unit is not None:
        unit([torch.ones(3)])
    clip = HardClip(1.0, unit).eval()
    x = torch.tensor([[-math.inf, -2.0, -1.0, -0.5, 0.0, 1.0, 1.01, math.nan]], requires_grad=True)
    clip(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]


def test_gradcheck_away_from_the_bound() -> None:
    x = torch.tensor([[-3.0, -0.9, 0.2, 1.4]], dtype=torch.float64, requires_grad=True)
    gradchecked(HardClip, HardClip(1.0), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_share_counts_what_the_clip_changes_of_what_is_not_zero(dtype: torch.dtype) -> None:
    clip, x = HardClip(0.1), torch.randn(40, 5).to(dtype)
    x[0] = torch.tensor([0.1, -0.1, 0.0, -0.0, 5.0], dtype=dtype)
    expected = (clip(x) != x)[x != 0].double().mean().item()
    assert clip.saturated_share(x).item() == pytest.approx(expected)
    assert clip.saturated_share(clip(x)).item() == 0


@pytest.mark.parametrize("epsilon", [0.0, -3.0, math.nan, math.inf])
def test_bad_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"HardClip\.epsilon"):
        HardClip(epsilon)
