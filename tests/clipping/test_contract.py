"""What every clip rule must do, whichever file it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.builders import same_bits
from tests.shelves import build, concrete

RULES = pytest.mark.parametrize("cls", concrete("clipping"))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])


def parameters(dtype: torch.dtype = torch.float32, scale: float = 3.0) -> list[nn.Parameter]:
    """Of several shapes, one without a gradient."""
    made = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in [(4, 3), (3,), (), (2, 3, 2)]]
    for parameter in made:
        parameter.grad = scale * torch.randn_like(parameter)
    return [*made, nn.Parameter(torch.randn(2, dtype=dtype))]


def grads(given: list[nn.Parameter]) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in given]


@RULES
@DTYPES
def test_edits_gradients_in_place_and_nothing_else(cls: Any, dtype: torch.dtype) -> None:
    given = parameters(dtype)
    weights, tensors = [p.detach().clone() for p in given], [p.grad for p in given]
    build(cls).clip(given)
    for parameter, weight, grad in zip(given, weights, tensors, strict=True):
        assert same_bits(parameter.detach(), weight)
        assert parameter.grad is grad
        if grad is not None:
            assert grad.dtype == dtype
            assert grad.isfinite().all()
            assert not grad.requires_grad


@RULES
def test_never_turns_an_entry_round(cls: Any) -> None:
    given = parameters()
    before = grads(given)
    build(cls).clip(given)
    for old, new in zip(before, grads(given), strict=True):
        if old is not None and new is not None:
            assert (old * new >= 0).all()


@RULES
@DTYPES
def test_measuring_changes_nothing_and_gives_scalars(cls: Any, dtype: torch.dtype) -> None:
    given, twin = parameters(dtype), parameters(dtype)
    for a, b in zip(given, twin, strict=True):
        b.grad = None if a.grad is None else a.grad.clone()
    assert build(cls).clip(given, measure=False) == {}
    report = build(cls).clip(twin, measure=True)
    for value in report.values():
        assert value.shape == ()
        assert value.isfinite()
    for old, new in zip(grads(given), grads(twin), strict=True):
        assert (old is None) == (new is None)
        assert old is None or new is None or same_bits(old, new)


@RULES
@pytest.mark.parametrize("measure", [False, True])
def test_no_gradient_at_all(cls: Any, measure: bool) -> None:
    given = [nn.Parameter(torch.randn(3))]
    assert build(cls).clip(given, measure=measure) == {}
    assert build(cls).clip([], measure=measure) == {}
    assert given[0].grad is None


@RULES
def test_state_dict_round_trip(cls: Any) -> None:
    rule, twin = build(cls), build(cls)
    rule.clip(parameters())
    twin.load_state_dict(rule.state_dict(), strict=True)
    ours, theirs = parameters(), parameters()
    for a, b in zip(ours, theirs, strict=True):
        b.grad = None if a.grad is None else a.grad.clone()
    rule.clip(ours)
    twin.clip(theirs)
    for old, new in zip(grads(ours), grads(theirs), strict=True):
        assert old is None or new is None or same_bits(old, new)
