"""What every unit must do, whichever file it is in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_distill.units import Unit
from tests.builders import same_bits
from tests.shelves import build, concrete

UNITS = pytest.mark.parametrize("cls", concrete("units"))
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])


def history(unit: Unit) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in unit.buffers()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))


@UNITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_is_a_positive_float32_scalar_without_gradient(cls: Any, dtype: torch.dtype) -> None:
    x = [torch.randn(9, 4, dtype=dtype, requires_grad=True), torch.randn((), dtype=dtype)]
    for found in (build(cls)(x), build(cls).eval()(x, fresh=False)):
        assert found.shape == ()
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert found.isfinite()
        assert found > 0


@UNITS
@BAD
def test_what_says_nothing_never_enters_history(cls: Any, bad: float) -> None:
    unit = build(cls)
    expected = unit([torch.randn(50)]).item()
    before = history(unit)
    found = unit([torch.full((50,), bad)])
    assert found.item() == pytest.approx(expected)
    assert same(history(unit), before)


@UNITS
@BAD
def test_without_history_it_is_positive_and_finite_all_the_same(cls: Any, bad: float) -> None:
    unit = build(cls)
    before = history(unit)
    for x in (torch.full((5,), bad), torch.zeros(0)):
        found = unit([x])
        assert found.isfinite()
        assert found > 0
        assert same(history(unit), before)
    x = torch.randn(50)
    assert unit([x]).item() == pytest.approx(build(cls)([x]).item())


@UNITS
def test_looking_again_leaves_history(cls: Any) -> None:
    unit = build(cls)
    first, second = torch.randn(50), 100 * torch.randn(50)
    own = unit([second], fresh=False).item()
    assert own == pytest.approx(build(cls)([second]).item())
    expected = unit([first]).item()
    before = history(unit)
    assert unit([second], fresh=False).item() == pytest.approx(expected)
    assert same(history(unit), before)


@UNITS
def test_tensors_count_together(cls: Any) -> None:
    x = torch.randn(30, 4)
    assert build(cls)([x[:10], x[10:]]).item() == pytest.approx(build(cls)([x]).item())


@UNITS
def test_leaves_the_tensors_alone(cls: Any) -> None:
    x = torch.randn(30, 4)
    before = x.clone()
    build(cls)([x])
    assert same_bits(x, before)


@UNITS
def test_state_dict_round_trip(cls: Any) -> None:
    unit, twin = build(cls), build(cls)
    for i in range(3):
        unit([(i + 1) * torch.randn(20)])
    twin.load_state_dict(unit.state_dict(), strict=True)
    x = torch.randn(20)
    assert unit([x]).item() == twin([x]).item()


@UNITS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_history_keeps_its_precision_in_another_ones_model(cls: Any, dtype: torch.dtype) -> None:
    unit = build(cls)
    unit([1e-6 * torch.randn(50)])
    before = history(unit)
    nn.Sequential(nn.Linear(2, 2), unit).to(dtype)
    assert same(history(unit), before)


@UNITS
def test_nobody_is_asked_while_it_is_compiled(cls: Any) -> None:
    unit, twin = build(cls), build(cls)
    compiled = torch.compile(unit, fullgraph=True, backend="aot_eager")
    for i in range(4):
        x = [(i + 1) * torch.randn(16, 8).bfloat16()]
        assert compiled(x).item() == pytest.approx(twin(x).item())


@UNITS
def test_under_inference_mode_and_back(cls: Any) -> None:
    unit = build(cls)
    x = torch.randn(20)
    expected = unit([x]).item()
    with torch.inference_mode():
        assert unit([x.clone()], fresh=False).item() == pytest.approx(expected)
        unit([x.clone()])
    assert unit([x]).item() == pytest.approx(expected, rel=1e-5)


@UNITS
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_is_not_asked_and_says_the_same(cls: Any) -> None:
    unit, other = build(cls).cuda(), build(cls)
    for i in range(3):
        x = [(i + 1) * torch.randn(300, 400), torch.randn(7)]
        there = [tensor.cuda() for tensor in x]
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = unit(there, total=lambda values: values)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert found.item() == pytest.approx(other(x).item(), rel=1e-5)
