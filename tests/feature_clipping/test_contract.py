"""What every feature clip must do, whichever file it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.shelves import build, concrete

CLIPS = pytest.mark.parametrize("cls", concrete("feature_clipping"))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


@CLIPS
@DTYPES
@pytest.mark.parametrize("size", [1, 5])
def test_shape_dtype_and_gradient(cls: Any, dtype: torch.dtype, size: int) -> None:
    clip = build(cls).to(dtype)
    x = (2 * torch.randn(size, 6, dtype=dtype)).requires_grad_()
    y = clip(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@CLIPS
def test_never_enlarges_and_keeps_signs(cls: Any) -> None:
    x = 5 * torch.randn(20, 6)
    y = build(cls)(x)
    assert (y.abs() <= x.abs() + 1e-6).all()
    assert (x * y >= 0).all()


@CLIPS
@DTYPES
def test_saturated_share(cls: Any, dtype: torch.dtype) -> None:
    clip = build(cls).to(dtype)
    for scale in (1e-3, 1.0, 1e3):
        share = clip.saturated_share(scale * torch.randn(7, 6, dtype=dtype))
        assert share.shape == ()
        assert 0 <= share <= 1
    assert clip.saturated_share(torch.zeros(2, 6, dtype=dtype)) == 0


@CLIPS
def test_rows_do_not_see_each_other(cls: Any) -> None:
    clip, x = build(cls).eval(), 3 * torch.randn(5, 6)
    assert torch.equal(clip(x)[[3, 0]], clip(x[[3, 0]]))


@CLIPS
def test_state_dict_round_trip(cls: Any) -> None:
    clip, twin, x = build(cls), build(cls), 3 * torch.randn(5, 6)
    twin.load_state_dict(clip.state_dict(), strict=True)
    assert torch.equal(twin(x), clip(x))
