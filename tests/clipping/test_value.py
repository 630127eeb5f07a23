"""g = clip(g, -eps, eps), bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.clipping import ValueClip
from lightning_distill.errors import ConfigError
from tests.builders import same_bits

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 3e38, -3e38, 0.1, -0.1, 0.05, -7.0]
EPSILONS = [0.1, 1e-3, 0.3, 5.0]


def clipped(grad: Tensor, epsilon: float) -> Tensor:
    weight = nn.Parameter(torch.zeros_like(grad))
    weight.grad = grad.clone()
    ValueClip(epsilon).clip([weight])
    return weight.grad


def formula(grad: NDArray[np.floating], epsilon: float) -> NDArray[np.floating]:
    """np.clip in the dtype of the gradient."""
    bound = grad.dtype.type(epsilon)
    return np.clip(grad, -bound, bound)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_equals_the_formula(dtype: type, epsilon: float) -> None:
    with np.errstate(over="ignore"):
        grad = np.array(SPECIAL + list(np.random.default_rng(0).normal(size=200)), dtype=dtype)
    expected = torch.from_numpy(formula(grad, epsilon))
    assert same_bits(clipped(torch.from_numpy(grad), epsilon), expected)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_equals_the_formula_in_bfloat16(epsilon: float) -> None:
    """NumPy has no bfloat16: every bfloat16, the bound rounded to it included, is exact in float32."""
    grad = torch.cat([torch.tensor(SPECIAL), torch.randn(200)]).bfloat16()
    bound = torch.tensor(epsilon).bfloat16().item()
    expected = torch.from_numpy(formula(grad.float().numpy(), bound)).bfloat16()
    assert same_bits(clipped(grad, epsilon), expected)


FINITE = arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FINITE, st.floats(1e-6, 1e6))
def test_laws(grad: NDArray[np.float32], epsilon: float) -> None:
    g = torch.from_numpy(grad)
    once = clipped(g, epsilon)
    assert once.isfinite().all()
    assert (once.abs() <= torch.tensor(epsilon)).all()
    assert same_bits(clipped(once, epsilon), once)
    inside = g.abs() <= torch.tensor(epsilon)
    assert same_bits(once[inside], g[inside])
    assert (once[~inside].abs() == torch.tensor(epsilon)).all()
    assert same_bits(once.signbit().to(torch.uint8), g.signbit().to(torch.uint8))
    assert same_bits(clipped(-g, epsilon), -once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_below_the_bound_nothing_happens(dtype: torch.dtype) -> None:
    grad = torch.cat([torch.tensor([0.0, -0.0, 1e-40]), 0.1 * torch.randn(50)]).to(dtype)
    assert same_bits(clipped(grad, 1.0), grad)


def test_views_and_strides() -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    weight.grad = torch.randn(4, 3).mul_(3).t()
    expected = weight.grad.clamp(-1, 1)
    ValueClip(1.0).clip([weight])
    assert torch.equal(weight.grad, expected)


def test_report() -> None:
    """Share of the entries beyond the bound, and the 2-norm of all gradients before the clip."""
    rng = np.random.default_rng(0)
    arrays_, weights = [rng.normal(size=shape).astype(np.float32) for shape in [(4, 3), (5,)]], []
    for array in arrays_:
        weights.append(nn.Parameter(torch.zeros(array.shape)))
        weights[-1].grad = torch.from_numpy(array.copy())
    report = ValueClip(0.5).clip([*weights, nn.Parameter(torch.zeros(9))], measure=True)
    flat = np.concatenate([a.ravel() for a in arrays_]).astype(np.float64)
    assert set(report) == {"clipped_share", "gradient_norm"}
    assert report["clipped_share"].item() == pytest.approx(np.mean(np.abs(flat) > 0.5))
    assert report["gradient_norm"].item() == pytest.approx(np.sqrt(np.sum(flat**2)), rel=1e-6)


def test_report_does_not_count_what_lies_on_the_bound() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.zeros(3, dtype=dtype))
        weight.grad = torch.tensor([0.1, -0.1, 0.2], dtype=dtype)
        report = ValueClip(0.1).clip([weight], measure=True)
        assert report["clipped_share"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("epsilon", [0.0, -0.5, math.nan, math.inf])
def test_bad_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"ValueClip\.epsilon"):
        ValueClip(epsilon)
