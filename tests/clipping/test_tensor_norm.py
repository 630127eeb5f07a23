"""g_i <- min(1, M / |g_i|) * g_i, tensor by tensor."""

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

from lightning_distill.clipping import ClipReport, TensorNormClip
from lightning_distill.errors import ConfigError
from tests.builders import same_bits
from tests.verification import FORMULA, compared


def clipped(grads: list[Tensor], rule: TensorNormClip) -> tuple[list[Tensor], ClipReport]:
    weights = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    report = rule.clip(weights)
    return [w.grad for w in weights if w.grad is not None], report


def norm(grad: Tensor, p: float) -> float:
    flat = np.abs(grad.numpy().astype(np.float64)).ravel()
    return float(flat.max() if p == math.inf else np.sum(flat**p) ** (1 / p))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_equals_the_formula(p: float) -> None:
    grads = [
        scale * torch.randn(shape) for scale, shape in [(0.01, (4, 3)), (9.0, (5,)), (0.3, ()), (2, (9,))]
    ]
    found, report = clipped(grads, TensorNormClip(1.0, p))
    norms = [norm(g, p) for g in grads]
    for new, old, n in zip(found, grads, norms, strict=True):
        compared(TensorNormClip, new, old.numpy().astype(np.float64) * min(1, 1 / n), rtol=1e-5, by=FORMULA)
    assert report.values["largest_norm"].item() == pytest.approx(max(norms), rel=1e-5)
    assert report.values["clipped_tensors"].item() == pytest.approx(sum(n > 1 for n in norms) / 4)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_equals_torch_tensor_by_tensor(p: float) -> None:
    grads = [torch.randn(6, 5), torch.randn(7) * 100]
    found, _ = clipped(grads, TensorNormClip(0.5, p))
    for new, old in zip(found, grads, strict=True):
        weight = nn.Parameter(torch.zeros_like(old))
        weight.grad = old.clone()
        torch.nn.utils.clip_grad_norm_([weight], 0.5, p)
        compared(TensorNormClip, new, weight.grad, rtol=1e-5, by="torch.nn.utils.clip_grad_norm_")


def test_a_tensor_that_is_not_finite_is_left_and_spoils_no_other() -> None:
    grads = [torch.tensor([math.inf, 1.0]), torch.tensor([math.nan, 1.0]), torch.tensor([3.0, 4.0])]
    found, _ = clipped(grads, TensorNormClip(1.0))
    assert same_bits(found[0], grads[0])
    assert same_bits(found[1], grads[1])
    assert found[2].tolist() == pytest.approx([0.6, 0.8])


def test_large_finite_gradients() -> None:
    found, _ = clipped([torch.full((4,), 1e20), torch.full((4,), 3e38)], TensorNormClip(1.0))
    assert torch.cat(found).tolist() == pytest.approx([0.5] * 8, rel=1e-5)


@pytest.mark.parametrize(
    ("bound", "p"), [(0.0, 2.0), (-1.0, 2.0), (math.nan, 2.0), (1.0, 0.5), (1.0, math.nan)]
)
def test_bad_arguments_are_refused(bound: float, p: float) -> None:
    with pytest.raises(ConfigError, match=r"TensorNormClip\.(max_norm|p)"):
        TensorNormClip(bound, p)


FINITE = arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ROUNDING = 1e-5
"""A multiplication, a norm in float32, and p-th powers."""


@given(FINITE, st.floats(0.1, 1e6), st.sampled_from([1.0, 2.0, 3.0, math.inf]))
def test_laws(values: NDArray[np.float32], bound: float, p: float) -> None:
    grads, rule = list(torch.from_numpy(values).split(4)), TensorNormClip(bound, p)
    once, _ = clipped(grads, rule)
    twice, _ = clipped(once, rule)
    turned, _ = clipped([-g for g in grads], rule)
    for old, new, again, other in zip(grads, once, twice, turned, strict=True):
        assert new.isfinite().all()
        assert norm(new, p) <= min(norm(old, p), bound * (1 + ROUNDING))
        if norm(old, p) < bound * (1 - ROUNDING):
            assert same_bits(new, old)
        torch.testing.assert_close(again, new, rtol=ROUNDING, atol=1e-44)
        assert same_bits(other, -new)
