"""What every clip rule must do, whichever file it is in."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.clipping import ClipReport, ClipRule
from lightning_distill.errors import ConfigError, NonFiniteError
from tests.builders import same_bits
from tests.shelves import build, concrete

RULES = pytest.mark.parametrize("cls", concrete("clipping"))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
STEPS = 8

Named = dict[str, nn.Parameter]


def parameters(dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Named:
    """Of several shapes, under the names of a model; one has no gradient."""
    shapes = {"encoders.a.0.weight": (4, 3), "encoders.b.0.weight": (3, 2, 2), "head.bias": (3,), "a": ()}
    made = {name: nn.Parameter(torch.randn(shape, dtype=dtype)) for name, shape in shapes.items()}
    for parameter in made.values():
        parameter.grad = scale * torch.randn_like(parameter)
    return {**made, "unused": nn.Parameter(torch.randn(2, dtype=dtype))}


def twin_of(given: Named) -> Named:
    """Other parameters with the same weights and gradients."""
    made = {name: nn.Parameter(p.detach().clone()) for name, p in given.items()}
    for name, parameter in given.items():
        made[name].grad = None if parameter.grad is None else parameter.grad.clone()
    return made


def grads(given: Named) -> list[Tensor]:
    return [p.grad.clone() for p in given.values() if p.grad is not None]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(same_bits(a, b) for a, b in zip(one, other, strict=True))


def history(rule: ClipRule) -> list[Tensor]:
    return [value.clone() for value in rule.state_dict().values() if isinstance(value, Tensor)]


def warmed(cls: Any) -> Iterator[ClipRule]:
    """A rule after no step, and after some."""
    for steps in (0, STEPS):
        rule = build(cls)
        for step in range(steps):
            rule.clip(parameters(), step=step)
        yield rule


@RULES
@DTYPES
def test_edits_gradients_in_place_and_nothing_else(cls: Any, dtype: torch.dtype) -> None:
    for rule in warmed(cls):
        given = parameters(dtype)
        weights, tensors = [p.detach().clone() for p in given.values()], [p.grad for p in given.values()]
        rule.clip(given)
        for parameter, weight, grad in zip(given.values(), weights, tensors, strict=True):
            assert same_bits(parameter.detach(), weight)
            assert parameter.grad is grad
            if grad is not None:
                assert grad.dtype == dtype
                assert grad.isfinite().all()
                assert not grad.requires_grad


@RULES
def test_never_turns_an_entry_round_nor_enlarges_one(cls: Any) -> None:
    for rule in warmed(cls):
        given = parameters(scale=30.0)
        before = grads(given)
        rule.clip(given)
        for old, new in zip(before, grads(given), strict=True):
            assert (old * new >= 0).all()
            assert (new.abs() <= old.abs() * (1 + 1e-6)).all()


@RULES
@DTYPES
def test_reports_finite_scalars(cls: Any, dtype: torch.dtype) -> None:
    for rule in warmed(cls):
        report = rule.clip(parameters(dtype))
        assert isinstance(report, ClipReport)
        for value in report.values.values():
            assert value.shape == ()
            assert value.isfinite()
            assert not value.requires_grad
        if report.skip is not None:
            assert report.skip.shape == ()
            assert report.skip.dtype == torch.bool
            assert not report.skip


@RULES
def test_no_gradient_at_all(cls: Any) -> None:
    rule, weight = build(cls), nn.Parameter(torch.randn(3))
    before = history(rule)
    for given in ([], [weight], {"w": weight}):
        assert rule.clip(given) == ClipReport()
    assert weight.grad is None
    assert same(history(rule), before)


@RULES
def test_names_are_taken_in_any_form(cls: Any) -> None:
    """As a mapping, as `named_parameters()`."""
    given = parameters()
    twin = twin_of(given)
    build(cls).clip(given)
    build(cls).clip(iter(twin.items()))
    assert same(grads(given), grads(twin))


@RULES
def test_a_parameter_that_is_tied_counts_once(cls: Any) -> None:
    given = parameters()
    twin = twin_of(given)
    build(cls).clip(given)
    (name, tied), *others = twin.items()
    build(cls).clip([(name, tied), ("again.weight", tied), *others])
    assert same(grads(given), grads(twin))


@RULES
def test_state_dict_round_trip(cls: Any) -> None:
    for rule in warmed(cls):
        rule.clip(parameters(), step=50)
        other = build(cls)
        other.load_state_dict(rule.state_dict(), strict=True)
        for step in (51, 52):
            ours = parameters(scale=10.0)
            theirs = twin_of(ours)
            rule.clip(ours, step=step)
            other.clip(theirs, step=step)
            assert same(grads(ours), grads(theirs))
        assert same(history(rule), history(other))


@RULES
def test_history_moves_once_a_step(cls: Any) -> None:
    for rule in warmed(cls):
        rule.clip(parameters(), step=50)
        before = history(rule)
        rule.clip(parameters(scale=10.0), step=50)
        assert same(history(rule), before)


@RULES
@BAD
def test_what_is_not_finite_never_enters_history(cls: Any, bad: float) -> None:
    for rule in warmed(cls):
        given = parameters()
        grad = given["encoders.a.0.weight"].grad
        assert grad is not None
        grad[1, 1] = bad
        before = history(rule)
        with contextlib.suppress(NonFiniteError):
            rule.clip(given, step=60)
        for old, new in zip(before, history(rule), strict=False):
            assert (
                old.shape != new.shape or (new.isfinite() | ~old.isfinite()).all()
            )  # NaN: nothing there yet
        after = parameters()
        rule.clip(after, step=61)
        assert all(new.isfinite().all() for new in grads(after))


@RULES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_history_stays_float32(cls: Any, dtype: torch.dtype) -> None:
    for rule in warmed(cls):
        nn.ModuleList([nn.Linear(2, 2), rule]).to(dtype)
        assert all(value.dtype in (torch.float32, torch.int64, torch.bool) for value in history(rule))


@RULES
def test_a_copy_goes_its_own_way(cls: Any) -> None:
    for rule in warmed(cls):
        other, before = copy.deepcopy(rule), history(rule)
        other.clip(parameters(scale=10.0), step=70)
        assert same(history(rule), before)


@pytest.mark.row("G4")
@RULES
@pytest.mark.parametrize(
    ("kind", "grad"),
    [("sparse", torch.ones(4).to_sparse()), ("complex", torch.ones(4, dtype=torch.complex64))],
)
def test_unusual_gradients_are_refused_by_name(cls: Any, kind: str, grad: Tensor) -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=grad.dtype))
    weight.grad = grad
    with pytest.raises(ConfigError, match=f"gradient of 'encoders.a.table': found a {kind} gradient"):
        build(cls).clip({"encoders.a.table": weight})


@RULES
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_is_not_asked_and_does_the_same(cls: Any) -> None:
    rule, other = build(cls).cuda(), build(cls)
    for step in range(STEPS):
        ours = parameters(scale=1.0 + step)
        theirs = {name: nn.Parameter(p.detach().cuda()) for name, p in ours.items()}
        for name, parameter in ours.items():
            theirs[name].grad = None if parameter.grad is None else parameter.grad.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            report = rule.clip(theirs, step=step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        expected = other.clip(ours, step=step)
        for mine, found in zip(grads(ours), grads(theirs), strict=True):
            torch.testing.assert_close(found.cpu(), mine)
        assert set(report.values) == set(expected.values)
        for name, value in expected.values.items():
            assert report.values[name].is_cuda
            torch.testing.assert_close(report.values[name].cpu(), value)
