"""g_i <- g_i / max(1, rms(g_i) / t), tensor by tensor."""

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

from lightning_distill.clipping import BlockRMSClip, ClipReport
from lightning_distill.errors import ConfigError
from tests.builders import same_bits
from tests.clipping.optax_apart import optax_edit
from tests.verification import FORMULA, compared


def clipped(grads: list[Tensor], threshold: float) -> tuple[list[Tensor], ClipReport]:
    weights = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    report = BlockRMSClip(threshold).clip(weights)
    return [w.grad for w in weights if w.grad is not None], report


def rms(grad: Tensor) -> float:
    return float(np.sqrt(np.mean(grad.numpy().astype(np.float64) ** 2)))


def draw() -> list[Tensor]:
    return [
        scale * torch.randn(shape) for scale, shape in [(0.01, (4, 3)), (9.0, (5,)), (0.3, ()), (2, (9, 2))]
    ]


def test_equals_the_formula() -> None:
    grads = draw()
    found, report = clipped(grads, 0.2)
    for new, old in zip(found, grads, strict=True):
        expected = old.numpy().astype(np.float64) / max(1, rms(old) / 0.2)
        compared(BlockRMSClip, new, expected, rtol=1e-5, by=FORMULA)
    assert report.values["largest_rms"].item() == pytest.approx(max(map(rms, grads)), rel=1e-5)
    assert report.values["clipped_tensors"].item() == pytest.approx(sum(rms(g) > 0.2 for g in grads) / 4)


def test_equals_optax() -> None:
    grads = draw()
    theirs = optax_edit("optax.clip_by_block_rms(0.2)", {f"p{i}": g.numpy() for i, g in enumerate(grads)})
    ours, _ = clipped(grads, 0.2)
    for a, b in zip(ours, theirs.values(), strict=True):
        compared(BlockRMSClip, a, b, rtol=1e-5, by="optax.clip_by_block_rms")


def test_repeating_a_tensor_changes_nothing() -> None:
    """Unlike a norm, the rms does not grow with the size."""
    grad = torch.randn(6)
    (once,), _ = clipped([grad], 0.3)
    (many,), _ = clipped([grad.repeat(50, 1)], 0.3)
    torch.testing.assert_close(many, once.repeat(50, 1), rtol=1e-5, atol=0)


def test_a_tensor_that_is_not_finite_is_left_and_spoils_no_other() -> None:
    grads = [torch.tensor([math.inf, 1.0]), torch.tensor([math.nan, 1.0]), torch.tensor([3.0, -3.0])]
    found, _ = clipped(grads, 1.0)
    assert same_bits(found[0], grads[0])
    assert same_bits(found[1], grads[1])
    assert found[2].tolist() == pytest.approx([1.0, -1.0])


def test_large_finite_and_empty_gradients() -> None:
    found, report = clipped([torch.full((4,), 1e20), torch.full((4,), 3e38), torch.zeros(0)], 1.0)
    assert torch.cat(found).tolist() == pytest.approx([1.0] * 8, rel=1e-5)
    assert report.values["largest_rms"].item() == pytest.approx(3e38, rel=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_arguments_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match=r"BlockRMSClip\.threshold"):
        BlockRMSClip(bad)


FINITE = arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ROUNDING = 1e-5
"""A multiplication and a norm in float32."""


@given(FINITE, st.floats(0.1, 1e6))
def test_laws(values: NDArray[np.float32], threshold: float) -> None:
    grads = list(torch.from_numpy(values).split(4))
    once, _ = clipped(grads, threshold)
    twice, _ = clipped(once, threshold)
    turned, _ = clipped([-g for g in grads], threshold)
    for old, new, again, other in zip(grads, once, twice, turned, strict=True):
        assert new.isfinite().all()
        assert rms(new) <= min(rms(old), threshold * (1 + ROUNDING))
        if rms(old) < threshold * (1 - ROUNDING):
            assert same_bits(new, old)
        torch.testing.assert_close(again, new, rtol=ROUNDING, atol=1e-44)
        assert same_bits(other, -new)
