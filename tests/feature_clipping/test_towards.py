"""The clamp forward; backward only what leads inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_distill.feature_clipping import HardClip, StraightThroughClip, TowardsClip
from tests.builders import same_bits
from tests.verification import FORMULA, compared

FLOATS = st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=5)


def reference(x: NDArray[np.float64], g: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """g, but 0 where x is beyond the bound and x - eta * g, for a small eta > 0, is further out."""
    out = np.where(x > epsilon, np.maximum(g, 0), g)
    return np.where(x < -epsilon, np.minimum(out, 0), out)


@given(x=FLOATS, g=FLOATS)
def test_gradient_equals_the_reference(x: list[float], g: list[float]) -> None:
    leaf = torch.tensor([x], requires_grad=True)
    y = TowardsClip(1.0)(leaf)
    y.backward(torch.tensor([g]))
    assert same_bits(y.detach(), HardClip(1.0)(leaf.detach()))
    assert leaf.grad is not None
    compared(TowardsClip, leaf.grad, reference(np.array([x]), np.array([g]), 1.0), by=FORMULA)


def test_on_the_bound_and_at_the_extremes() -> None:
    x = torch.tensor([[1.0, 1.0, -1.0, math.inf, math.inf, -math.inf, math.nan]], requires_grad=True)
    TowardsClip(1.0)(x).backward(torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[1, -1, 1, 1, 0, -1, 0]]


def test_the_smallest_gradient_still_leads_back() -> None:
    """Where x * g would underflow to 0."""
    x = torch.full((1, 2), 1e-20, requires_grad=True)
    TowardsClip(1e-21)(x).backward(torch.tensor([[1e-38, -1e-38]]))
    assert x.grad is not None
    assert x.grad[0, 0] > 0
    assert x.grad[0, 1] == 0


@given(x=FLOATS, g=FLOATS)
def test_a_step_leads_no_further_out_than_hard_and_no_less_far_in_than_straight_through(
    x: list[float], g: list[float]
) -> None:
    grads = []
    for clip in (HardClip(1.0), TowardsClip(1.0), StraightThroughClip(1.0)):
        leaf = torch.tensor([x], requires_grad=True)
        clip(leaf).backward(torch.tensor([g]))
        assert leaf.grad is not None
        grads.append((leaf.grad * leaf.detach().sign()).numpy())
    hard, towards, through = grads
    beyond = np.abs(np.array([x], dtype=np.float32)) > 1
    assert (towards[beyond] == np.maximum(hard, through)[beyond]).all()
    assert (towards[~beyond] == hard[~beyond]).all()


def test_is_the_gradient_of_no_loss() -> None:
    x = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(TowardsClip(1.0), x)
