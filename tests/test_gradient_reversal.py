"""Gradient reversal against finite differences of what each of two players minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.gradient_reversal import reverse_gradient
from tests.builders import same_bits

Array = NDArray[np.float64]


def slopes(function: Callable[[Array], float], at: Array, h: float = 1e-6) -> Array:
    """Central differences."""
    found = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[i] = h
        found[i] = (function(at + step) - function(at - step)) / (2 * h)
    return found


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
def test_each_player_descends_on_its_own_objective(factor: float) -> None:
    """Discriminator v: L. Encoder w: M - factor * L, with M a loss of its own beside the reversal."""
    rng = np.random.default_rng(0)
    x, w, v = rng.normal(size=(7, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    domain = np.arange(7) % 2

    def game(w: Array, v: Array) -> float:
        odds = np.tanh(x @ w) @ v
        return float(np.mean(np.logaddexp(0, odds) - domain * odds))

    def own(w: Array) -> float:
        return float(np.sum(np.tanh(x @ w) ** 2))

    encoder, discriminator = (torch.tensor(a, requires_grad=True) for a in (w, v))
    features = torch.tanh(torch.tensor(x) @ encoder)
    odds = reverse_gradient(features, factor) @ discriminator
    loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, torch.tensor(domain).double())
    assert loss.item() == pytest.approx(game(w, v), rel=1e-12)
    (loss + features.square().sum()).backward()
    assert discriminator.grad is not None
    assert encoder.grad is not None
    np.testing.assert_allclose(discriminator.grad, slopes(lambda a: game(w, a), v), rtol=1e-6, atol=1e-9)
    expected = slopes(lambda a: own(a) - factor * game(a, v), w)
    np.testing.assert_allclose(encoder.grad, expected, rtol=1e-6, atol=1e-8)


def test_each_passage_multiplies_a_second_derivative() -> None:
    """d/dx of sum R(x)^3 is -f * 3 x^2, where x is again R(x): its derivative is f^2 * 6 x."""
    x, f = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True), 0.7
    (first,) = torch.autograd.grad(reverse_gradient(x, f).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first, -f * 3 * x.square())
    torch.testing.assert_close(second, f**2 * 6 * x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_values_stay_to_the_last_bit(dtype: torch.dtype) -> None:
    x = torch.tensor([1 / 3, -0.0, torch.inf, torch.nan], dtype=dtype, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert same_bits(y.detach(), x.detach())
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [-0.5] * 4


def test_what_needs_no_gradient_stays_so() -> None:
    assert not reverse_gradient(torch.ones(2), 1.0).requires_grad


def test_works_sample_by_sample() -> None:
    def loss(w: Tensor, x: Tensor) -> Any:
        return (reverse_gradient(w * x, 2.0) ** 2).sum()

    w, x = torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
    torch.testing.assert_close(found, -2.0 * 2 * w * x.square())
