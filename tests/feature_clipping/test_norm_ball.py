"""x * min(1, r / |x|) row by row, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import NormBallClip
from tests.verification import FORMULA, compared, gradchecked


def test_equals_the_formula_and_the_gradient_by_hand() -> None:
    """Outside: (r / n) * (g - x (x . g) / n^2); inside: g."""
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    x = torch.from_numpy(values).requires_grad_()
    y = NormBallClip(1.7)(x)
    y.backward(torch.from_numpy(weights))
    norm = np.sqrt((values**2).sum(axis=1, keepdims=True))
    assert 0 < (norm > 1.7).mean() < 1
    compared(NormBallClip, y, values * np.minimum(1, 1.7 / norm), rtol=1e-12, by=FORMULA)
    turned = 1.7 / norm * (weights - values * (values * weights).sum(axis=1, keepdims=True) / norm**2)
    assert x.grad is not None
    compared(NormBallClip, x.grad, np.where(norm > 1.7, turned, weights), rtol=1e-12, by=FORMULA)


def test_gradcheck_also_of_the_second_derivative() -> None:
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    gradchecked(NormBallClip, NormBallClip(1.7), x)
    assert torch.autograd.gradgradcheck(NormBallClip(1.7), x)


def test_gradient_has_no_part_along_x() -> None:
    x = (5 * torch.randn(20, 6, dtype=torch.float64)).requires_grad_()
    NormBallClip(0.5)(x).backward(torch.randn(20, 6, dtype=torch.float64))
    assert x.grad is not None
    assert (x.grad * x.detach()).sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_whose_squares_overflow_keep_their_direction(dtype: torch.dtype) -> None:
    big = torch.finfo(dtype).max / 4
    x = torch.tensor([[big, 0.0, -big]], dtype=dtype, requires_grad=True)
    y = NormBallClip(2.0)(x)
    y.sum().backward()
    expected = torch.tensor([[math.sqrt(2), 0.0, -math.sqrt(2)]], dtype=dtype)
    torch.testing.assert_close(y.detach(), expected)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_what_is_not_finite_stays_so_in_its_row() -> None:
    y = NormBallClip(1.0)(torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [3.0, 4.0]]))
    assert not y[:2].isfinite().any()
    torch.testing.assert_close(y[2], torch.tensor([0.6, 0.8]))


def test_rows_beyond_are_saturated() -> None:
    x = torch.tensor([[3.0, 4.0], [0.1, 0.1], [0.0, 1.0], [9.0, 0.0]])
    assert NormBallClip(1.0).saturated_share(x).item() == 0.5


@pytest.mark.parametrize("radius", [0.0, -3.0, math.nan, math.inf])
def test_bad_radius_is_refused(radius: float) -> None:
    with pytest.raises(ConfigError, match=r"NormBallClip\.radius"):
        NormBallClip(radius)
