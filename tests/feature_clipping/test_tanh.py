"""eps * tanh(x / eps) and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.feature_clipping import TanhClip
from tests.verification import FORMULA, compared, gradchecked


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 30.0])
def test_equals_the_formula(epsilon: float) -> None:
    x = torch.from_numpy(epsilon * np.random.default_rng(0).normal(scale=3, size=(6, 7))).requires_grad_()
    y = TanhClip(epsilon)(x)
    y.sum().backward()
    z = x.detach().numpy() / epsilon
    compared(TanhClip, y, epsilon * np.tanh(z), rtol=1e-12, by=FORMULA)
    assert x.grad is not None
    compared(TanhClip, x.grad, 1 / np.cosh(z) ** 2, rtol=1e-9, atol=1e-12, by=FORMULA)
    gradchecked(TanhClip, TanhClip(1.0), x)


def test_the_figures_of_its_docstring() -> None:
    x = torch.tensor([[0.5, 1.0, 3.0]], requires_grad=True)
    y = TanhClip(1.0)(x)
    y.sum().backward()
    assert y[0, 0].item() == pytest.approx(0.46, abs=0.005)
    assert x.grad is not None
    assert x.grad[0, 1].item() == pytest.approx(0.42, abs=0.005)
    assert x.grad[0, 2].item() == pytest.approx(0.0099, abs=0.0001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes_are_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([[3e38, -3e38, 1e-40, -0.0]], dtype=dtype, requires_grad=True)
    y = TanhClip(1e-3)(x)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    torch.testing.assert_close(y.detach()[0, :2], torch.tensor([1e-3, -1e-3], dtype=dtype))


def test_beyond_epsilon_is_saturated() -> None:
    assert TanhClip(1.0).saturated_share(torch.tensor([[0.5, 1.0, -1.5, 9.0]])).item() == 0.5
