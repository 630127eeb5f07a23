"""The backward clip under checkpointing, autocast, no_grad, several passes and changes in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_distill.feature_clipping import BoundaryClip
from lightning_distill.units import StandardDeviation, Unit


@pytest.mark.parametrize("unit", [None, StandardDeviation])
@pytest.mark.parametrize("reentrant", [False, True])
def test_under_checkpointing(reentrant: bool, unit: type[Unit] | None) -> None:
    results = []
    for run in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=reentrant)):
        torch.manual_seed(0)
        layer, clip = nn.Linear(6, 6), BoundaryClip(0.3, unit and unit())
        x = torch.randn(4, 6, requires_grad=True)
        run(lambda x, layer=layer, clip=clip: clip(layer(x)), x).square().sum().backward()
        results.append((x.grad, layer.weight.grad, clip.state_dict()))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    x = torch.randn(4, 6, requires_grad=True)
    with mode():
        y = BoundaryClip(0.3, StandardDeviation())(x)
    assert torch.equal(y, x)
    assert not y.requires_grad


def test_under_autocast() -> None:
    """The feature comes in bfloat16, and so does its gradient."""
    layer, clip = nn.Linear(6, 6), BoundaryClip(0.25)
    x = torch.randn(4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        clipped = clip(y)
        assert clipped.dtype == torch.bfloat16
        y.retain_grad()
        (9 * clipped).sum().backward()
    assert y.grad is not None
    assert torch.equal(y.grad, torch.full((4, 6), 0.25 / 4, dtype=torch.bfloat16))


def test_several_calls_and_several_backward_passes() -> None:
    clip, x = BoundaryClip(1.0), torch.zeros(1, 2, requires_grad=True)
    y = clip(clip(x))
    for _ in range(2):
        (grad,) = torch.autograd.grad((y * torch.tensor([3.0, -0.5])).sum(), x, retain_graph=True)
        assert grad.tolist() == [[1.0, -0.5]]


def test_what_uses_the_unclipped_feature_is_not_clipped() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    feature = x * 1.0
    (5 * BoundaryClip(1.0)(feature) + 7 * feature).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[8.0, 8.0]]


def test_a_gradient_penalty_sees_the_clipped_gradient() -> None:
    """d/dx of clip(3 x^2)^2 / 2 is 3 x^2 * 6 x inside and 0 beyond."""
    x = torch.tensor([[0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(BoundaryClip(4.0)(x).pow(3).sum(), x, create_graph=True)
    grad.square().sum().div(2).backward()
    assert grad.tolist() == [[0.75, 4.0]]
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [[0.75 * 3.0, 0.0]])


def test_a_later_change_in_place_is_seen() -> None:
    """The result shares the memory of x, so autograd must notice what is written into it."""
    x = torch.randn(2, 3, requires_grad=True)
    feature = x.exp()
    BoundaryClip(1.0)(feature).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        feature.sum().backward()


def test_an_empty_batch() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    BoundaryClip(1.0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 3)
