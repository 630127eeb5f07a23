"""Guards: every entry of every gradient is looked at before a rule edits one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_distill.clipping import (
    ClipReport,
    ClipRule,
    NonFiniteGuard,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
    TargetFractionClip,
    ValueClip,
)
from lightning_distill.errors import NonFiniteError
from lightning_distill.gradients import Gradients, gradients_of
from tests.builders import same_bits

QUIET = pytest.mark.parametrize("guard", [SkipNonFinite, PropagateNonFinite])
GUARDS = pytest.mark.parametrize("guard", [SkipNonFinite, PropagateNonFinite, RaiseNonFinite])
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
SHAPES = [(40, 3), (5,), (), (0,), (2, 3, 4)]


def named(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    made = {f"layer{i}": nn.Parameter(torch.zeros(s, dtype=dtype)) for i, s in enumerate(SHAPES)}
    for parameter in made.values():
        parameter.grad = torch.randn_like(parameter)
    return made


def grads(given: dict[str, nn.Parameter]) -> list[Tensor]:
    return [p.grad.clone() for p in given.values() if p.grad is not None]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))


class _Watched(ClipRule):
    """Counts its calls, and keeps the largest entry it has seen."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("largest", torch.zeros(()))

    def edit(self, gradients: Gradients) -> ClipReport:
        self.calls += 1
        for grad in gradients.local:
            grad.clamp_(-1, 1)
            if grad.numel():
                self.largest.copy_(torch.maximum(self.largest, grad.abs().amax()))
        return ClipReport(
            {"largest": self.largest.clone()}, torch.tensor(self.calls == 3, device=gradients.device)
        )


@GUARDS
@DTYPES
def test_a_finite_step_is_that_of_the_rule(guard: type[Any], dtype: torch.dtype) -> None:
    ours, theirs = named(dtype), named(dtype)
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        b.grad = None if a.grad is None else a.grad.clone()
    report, bare = guard(_Watched()).clip(ours), _Watched().clip(theirs)
    assert same(grads(ours), grads(theirs))
    assert report.values["largest"] == bare.values["largest"]
    assert not report.skip


@QUIET
@BAD
@DTYPES
@pytest.mark.parametrize(
    "where", [("layer0", (-1, -1)), ("layer1", (0,)), ("layer2", ()), ("layer4", (1, 2, 3))]
)
def test_one_entry_anywhere_leaves_everything_as_it_was(
    guard: type[Any], bad: float, dtype: torch.dtype, where: tuple[str, tuple[int, ...]]
) -> None:
    rule, given = _Watched(), named(dtype)
    grad = given[where[0]].grad
    assert grad is not None
    grad[where[1]] = bad
    before = grads(given)
    report = guard(rule).clip(given)
    assert rule.calls == 0
    assert rule.largest == 0
    assert same(grads(given), before)
    assert report.values == {}
    if guard is SkipNonFinite:
        assert report.skip is not None
        assert report.skip.shape == ()
        assert report.skip.dtype == torch.bool
        assert report.skip
    else:
        assert report.skip is None


def test_skip_is_said_in_finite_steps_too_and_that_of_the_rule_stays() -> None:
    guard = SkipNonFinite(_Watched())
    told = [guard.clip(named()).skip for _ in range(4)]
    assert [bool(skip) for skip in told] == [False, False, True, False]
    assert SkipNonFinite(ValueClip(1.0)).clip(named()).skip is not None


@GUARDS
@DTYPES
def test_large_but_finite_entries_are_finite(guard: type[Any], dtype: torch.dtype) -> None:
    """Their squares, their sum and their norm overflow."""
    given = named(dtype)
    for parameter in given.values():
        assert parameter.grad is not None
        parameter.grad.fill_(torch.finfo(dtype).max)
    assert not guard(ValueClip(0.5)).clip(given).skip
    assert all((grad == 0.5).all() for grad in grads(given))


@BAD
def test_raise_names_the_tensors_and_counts(bad: float) -> None:
    given = named()
    for name, at in (("layer1", [1, 3]), ("layer4", [0])):
        grad = given[name].grad
        assert grad is not None
        grad[at] = bad
    before = grads(given)
    nan, infinite = (2, 0) if math.isnan(bad) else (0, 2)
    words = (
        rf"step 7: found 'layer1' \({nan} NaN, {infinite} infinite of 5\), 'layer4' \(\d+ NaN, .* of 24\);"
    )
    with pytest.raises(NonFiniteError, match=words):
        RaiseNonFinite(ValueClip(0.1)).clip(given, step=7)
    assert same(grads(given), before)


def test_raise_names_the_first_of_many() -> None:
    given = {f"w{i:02}": nn.Parameter(torch.zeros(2)) for i in range(12)}
    for parameter in given.values():
        parameter.grad = torch.full((2,), math.nan)
    with pytest.raises(NonFiniteError, match=r"'w00' .*'w04' \(2 NaN, 0 infinite of 2\) and 7 more; "):
        RaiseNonFinite(ValueClip(0.1)).clip(given)


@given(st.lists(st.floats(width=32), min_size=1, max_size=9), st.floats(1e-3, 1e3))
def test_nothing_is_laundered(entries: list[float], epsilon: float) -> None:
    """After a guarded clip gradients are finite and bounded, or as they were in a step to be skipped."""
    weight = nn.Parameter(torch.zeros(len(entries)))
    weight.grad = torch.tensor(entries)
    before = weight.grad.clone()
    report = SkipNonFinite(ValueClip(epsilon)).clip([weight])
    assert bool(report.skip) == (not all(map(math.isfinite, entries)))
    expected = before if report.skip else before.clamp(-epsilon, epsilon)
    assert same_bits(weight.grad, expected)


@QUIET
def test_history_is_as_if_the_bad_steps_had_not_been(guard: type[Any]) -> None:
    inner, twin = TargetFractionClip(share=0.1), TargetFractionClip(share=0.1)
    rule = guard(inner)
    for i in range(20):
        weight = nn.Parameter(torch.zeros(300))
        weight.grad = torch.randn(300)
        if i % 4 == 2:
            weight.grad[5] = math.inf
        else:
            same_again = nn.Parameter(torch.zeros(300))
            same_again.grad = weight.grad.clone()
            twin.clip([same_again])
        rule.clip([weight])
    assert inner.begun
    assert same_bits(inner.log_epsilon, twin.log_epsilon)


@QUIET
@pytest.mark.parametrize("poisoned", [False, True])
def test_as_on_an_accelerator_where_nobody_is_asked(guard: type[Any], poisoned: bool) -> None:
    """The way without a synchronisation, on the CPU: rule and history as on the other way."""
    rule, given = _Watched(), named()
    grad = given["layer0"].grad
    assert grad is not None
    grad[0, 0] = math.inf if poisoned else 3.0
    before = grads(given)
    gradients = gradients_of(given)
    flags = torch.tensor([poisoned, False, False, False, False])
    report = guard(rule).edit_unseen(gradients, flags)
    assert (rule.largest == 0) == poisoned
    if guard is PropagateNonFinite:
        assert same(grads(given), before) == poisoned
    else:
        assert bool(report.skip) == poisoned


def test_a_guard_is_a_rule_with_a_rule_in_it() -> None:
    guard = SkipNonFinite(TargetFractionClip())
    assert isinstance(guard, NonFiniteGuard)
    assert set(guard.state_dict()) == {"rule.log_epsilon", "rule.begun"}


@GUARDS
@BAD
@DTYPES
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_an_accelerator(guard: type[Any], bad: float, dtype: torch.dtype) -> None:
    """The step is reported, history stays, and who raises does so when the news has arrived."""
    rule, given = _Watched().cuda(), named(dtype)
    made = {name: nn.Parameter(parameter.detach().cuda()) for name, parameter in given.items()}
    for parameter in made.values():
        parameter.grad = torch.randn_like(parameter)
    grad = made["layer4"].grad
    assert grad is not None
    grad[1, 2, 3] = bad
    before, guarded = grads(made), guard(rule)
    report = guarded.clip(made, step=1)
    assert rule.largest == 0
    if guard is PropagateNonFinite:
        assert same(grads(made), before)
    else:
        assert report.skip is not None
        assert report.skip.is_cuda
        assert report.skip
    torch.cuda.synchronize()
    grad.zero_()
    if guard is RaiseNonFinite:
        with pytest.raises(NonFiniteError, match="step 1: found 'layer4'; "):
            guarded.clip(made, step=2)
    assert not guarded.clip(made, step=3).skip
