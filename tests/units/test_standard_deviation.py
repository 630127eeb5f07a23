"""Root mean square about zero, smoothed and debiased."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.units import StandardDeviation


def reference(steps: list[list[np.ndarray]], decay: float) -> list[float]:
    """Exponential average of the mean square, divided by the weight it has collected."""
    found, average, weight = [], 0.0, 0.0
    for arrays in steps:
        square = np.mean(np.concatenate([a.ravel() for a in arrays]).astype(np.float64) ** 2)
        average, weight = decay * average + (1 - decay) * square, decay * weight + 1 - decay
        found.append(math.sqrt(average / weight))
    return found


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_equals_the_formula(dtype: type, decay: float) -> None:
    rng = np.random.default_rng(0)
    steps = [[(i + 1) * rng.normal(size=s).astype(dtype) for s in [(7, 9), (5,), ()]] for i in range(12)]
    unit = StandardDeviation(decay)
    ours = [unit([torch.from_numpy(np.asarray(a)) for a in arrays]).item() for arrays in steps]
    np.testing.assert_allclose(ours, reference(steps, decay), rtol=1e-5 if dtype != np.float16 else 1e-3)


def test_zeros_count_and_the_mean_is_not_taken_out() -> None:
    assert StandardDeviation()([torch.tensor([2.0, 0.0, 0.0, 0.0])]).item() == pytest.approx(1.0)
    assert StandardDeviation()([torch.full((5,), 3.0)]).item() == pytest.approx(3.0)


@given(st.floats(1e-12, 1e12), st.integers(0, 3))
def test_goes_with_the_scale(scale: float, decays: int) -> None:
    x = torch.tensor([0.3, -1.0, 2.0])
    one, other = StandardDeviation(decays / 4), StandardDeviation(decays / 4)
    for factor in (1.0, 3.0):
        assert other([scale * factor * x]).item() == pytest.approx(scale * one([factor * x]).item(), rel=1e-5)


def test_parts_of_split_tensors() -> None:
    """Two processes with a half each, by hand: what one does not have comes through `total`."""
    halves = torch.randn(6, 4), 3 * torch.randn(2, 4)
    theirs = torch.tensor([[halves[1].square().sum().item(), float(halves[1].numel())]])
    ours = StandardDeviation()([halves[0]], total=lambda values: values + theirs)
    assert ours.item() == pytest.approx(StandardDeviation()([torch.cat(halves)]).item(), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1.0, 3e18, 1e35])
def test_parts_whose_squares_leave_float32(scale: float) -> None:
    """As rules call it, also where nothing is split."""
    parts = [torch.full((40, 50), scale), torch.full((9,), -scale)]
    found = StandardDeviation()(parts, total=lambda values: values)
    assert found.item() / scale == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, math.nan])
def test_bad_decay_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"StandardDeviation\.decay"):
        StandardDeviation(decay)
