"""The signed square root and the norm behind it: how far they are from the formula, and how steep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.fusion import power_normalize, signed_sqrt

Z = torch.cat([torch.zeros(1), torch.logspace(-12, 4, 801)]).double()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_signed_sqrt_stays_close_to_the_root(sign: float) -> None:
    """z / sqrt(z + d) is off by at most 0.3003 sqrt(d), where z = 0.618 d; d = 1e-6."""
    root = sign * np.sqrt(Z.numpy())
    off = np.abs(signed_sqrt(sign * Z).numpy() - root)
    assert off.max() <= 3.1e-4
    assert (off[Z.numpy() > 1e-2] <= 1e-4 * np.abs(root[Z.numpy() > 1e-2])).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_slope_of_signed_sqrt_is_bounded(sign: float, dtype: torch.dtype) -> None:
    z = (sign * Z).to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(signed_sqrt(z).sum(), z)
    assert slope.isfinite().all()
    assert (slope > 0).all()
    assert slope.max() <= 1000 * (1 + 4 * torch.finfo(dtype).eps)
    steep = slope[Z > 1e-3].double()
    torch.testing.assert_close(steep, 0.5 / Z[Z > 1e-3].sqrt(), rtol=0.05, atol=0)


def test_rows_have_norm_one_whatever_their_scale() -> None:
    z = torch.randn(3, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(power_normalize(z).norm(dim=2), torch.ones(3, 4).double())
    torch.testing.assert_close(power_normalize(1e6 * z), power_normalize(z), rtol=1e-3, atol=1e-3)


def test_a_row_of_zeros_stays_zero_and_its_gradient_is_bounded() -> None:
    z = torch.zeros(2, 5, requires_grad=True)
    y = power_normalize(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    assert (y == 0).all()
    assert slope.isfinite().all()
    assert slope.max() <= 1.001e6
