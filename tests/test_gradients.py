"""Gradients by name, and their norms, which no size of an entry may spoil."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients, gradients_of, norms
from tests.builders import same_bits

ROUNDING = 5e-6
"""Of powers, sums and roots in float32."""
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
P = pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 40.0, math.inf])


def with_grads(*grads: Tensor) -> dict[str, nn.Parameter]:
    made = {f"p{i}": nn.Parameter(torch.zeros_like(grad)) for i, grad in enumerate(grads)}
    for parameter, grad in zip(made.values(), grads, strict=True):
        parameter.grad = grad
    return made


def look(*grads: Tensor) -> Gradients:
    return gradients_of(with_grads(*grads))


def reference(x: NDArray[Any], p: float) -> float:
    """The p-norm by its definition, in float64, of entries divided by the largest."""
    magnitudes = np.abs(x.astype(np.float64)).ravel()
    top = magnitudes.max(initial=0.0)
    if p == math.inf or top == 0:
        return float(top)
    return float(top * np.sum((magnitudes / top) ** p) ** (1 / p))


@P
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_norms_equal_the_definition(p: float, dtype: torch.dtype, scale: float) -> None:
    grads = [(torch.randn(shape) * scale).to(dtype) for shape in [(40, 30), (7,), (), (3, 0), (2, 3, 4, 5)]]
    expected = [reference(g.double().numpy(), p) for g in grads]
    found = look(*grads)
    assert found.norms(p).tolist() == pytest.approx(expected, rel=ROUNDING)
    assert found.norm(p).item() == pytest.approx(reference(np.array(expected), p), rel=ROUNDING)


@P
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-20, 1e20, 3e38])
def test_norms_where_powers_leave_float32(p: float, size: float) -> None:
    """At 3e38 the norm itself is no float32 either."""
    grad = torch.tensor([1.0, -0.5, 0.25, 1.0]) * size
    expected = reference(grad.numpy(), p)
    assert look(grad, torch.zeros(3)).norms(p).tolist() == pytest.approx([expected, 0.0], rel=ROUNDING)
    assert look(grad, torch.zeros(3)).norm(p).item() == pytest.approx(expected, rel=ROUNDING)
    assert norms.scaled_norm(grad, p).item() == pytest.approx(expected, rel=ROUNDING)  # as accelerators do


def test_norm_of_half_precision_beyond_its_largest_number() -> None:
    grad = torch.full((400,), 6e4, dtype=torch.float16)
    assert look(grad).norm().item() == pytest.approx(20 * float(grad[0]), rel=ROUNDING)


@P
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 2])
def test_norms_tell_what_is_not_finite(p: float, bad: float, place: int) -> None:
    grad = torch.tensor([1e30, 2.0, 3.0, 4.0])
    grad[place] = bad
    found = look(grad, torch.ones(1))
    for norm in (found.norms(p)[0], found.norm(p)):
        assert norm.isnan() if math.isnan(bad) else norm == math.inf
    assert found.norms(p)[1] == 1.0


def test_norm_of_many_entries_keeps_its_digits() -> None:
    """Squares that are added up one by one in float32 would lose 1e-4 here."""
    grad = torch.randn(9_000_000)
    expected = math.sqrt(np.square(grad.numpy(), dtype=np.float64).sum())
    assert look(grad).norm().item() == pytest.approx(expected, rel=1e-5)


def test_norm_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_PIECE", 7)
    monkeypatch.setattr(norms, "_SMALL", 3)
    grads = [torch.randn(5, 6), torch.randn(6, 5).t(), torch.randn(2), torch.randn(14)]
    expected = [reference(g.numpy(), 2.0) for g in grads]
    assert look(*grads).norms().tolist() == pytest.approx(expected, rel=ROUNDING)


FINITE = arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FINITE, st.sampled_from([1.0, 2.0, 3.0, math.inf]))
def test_norm_of_anything_finite(values: NDArray[np.float32], p: float) -> None:
    expected = reference(values, p)
    assert look(torch.from_numpy(values)).norm(p).item() == pytest.approx(expected, rel=1e-5)


def test_types_of_norms() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = look(torch.ones(3, dtype=dtype))
        assert found.norms().dtype == found.sizes().dtype == found.norm().dtype == torch.float64


def test_a_parameter_given_twice_counts_once() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    found = gradients_of([("first", weight), ("tied", weight)])
    assert found.names == ("first",)
    assert found.norm().item() == 5.0


def test_what_has_no_gradient_is_named_apart() -> None:
    given_ = with_grads(torch.ones(1), torch.ones(2), torch.ones(3))
    given_["p1"].grad = None
    found = gradients_of(given_)
    assert found.names == ("p0", "p2")
    assert found.without == ("p1",)
    assert found.select(lambda name: name != "p1").without == ()
    assert found.select(lambda name: name != "p0").without == ("p1",)
    assert found.sizes().tolist() == [1, 3]


def test_a_part_of_the_model() -> None:
    names = ["encoders.a.w", "encoders.ab.w", "encoders.a.b", "head.w"]
    parameters = {n: nn.Parameter(torch.zeros(1)) for n in names}
    for i, parameter in enumerate(parameters.values()):
        parameter.grad = torch.tensor([float(i)])
    found = Gradients(
        *(lambda g: (g.names, g.parameters, g.local))(gradients_of(parameters)),
        step=3,
        splits=(("group", (0, 2, 3)), ("other", (1,))),
    ).under("encoders.a")
    assert found.names == ("encoders.a.w", "encoders.a.b")
    assert [g.item() for g in found.local] == [0.0, 2.0]
    assert found.step == 3
    assert found.splits == (("group", (0, 1)),)


def test_a_factor_of_one_leaves_every_bit() -> None:
    grad = torch.tensor([math.nan, -0.0, 1e-45, math.inf, 3e38])
    for factor in (torch.tensor(1.0), torch.ones(2), torch.ones(2, dtype=torch.float64)):
        edited = look(grad.clone(), torch.ones(1))
        edited.scale(factor)
        assert same_bits(edited.local[0], grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_factor_is_as_precise_as_the_gradients(dtype: torch.dtype) -> None:
    """0.9973 rounded to bfloat16 would be 1."""
    grads = [torch.randn(50).to(dtype), torch.randn(3, 4).double()]
    for factor in (torch.tensor(0.9973, dtype=torch.float64), torch.tensor([0.9973, 0.5])):
        edited = look(*[g.clone() for g in grads])
        edited.scale(factor)
        for found, grad, number in zip(edited.local, grads, factor.expand(2).tolist(), strict=True):
            eps = torch.finfo(grad.dtype).eps
            assert found.dtype == grad.dtype
            assert torch.allclose(found.double(), grad.double() * number, rtol=eps + 1e-16, atol=0)


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_unusual_gradients_are_refused(kind: str) -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.cfloat if kind == "complex" else torch.float32))
    weight.grad = torch.ones_like(weight) if kind == "complex" else torch.ones(2).to_sparse()
    with pytest.raises(ConfigError, match=f"found a {kind} gradient"):
        gradients_of({"w": weight})


@needs_cuda
@P
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20, 3e38])
def test_norms_on_a_gpu(p: float, size: float) -> None:
    grads = [torch.randn(300, 40).clamp(-1, 1) * size, torch.randn(()).clamp(-1, 1) * size, torch.zeros(3)]
    grads += [grads[0].clone().t(), torch.randn(9).bfloat16(), torch.zeros(0)]
    expected, given_ = look(*grads), look(*[g.cuda() for g in grads])
    torch.cuda.set_sync_debug_mode("error")
    try:
        norms_, norm, sizes = given_.norms(p), given_.norm(p), given_.sizes()
        given_.scale(norm.clamp(max=0.5))
        given_.scale(norms_.clamp(max=0.5))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert norms_.tolist() == pytest.approx(expected.norms(p).tolist(), rel=ROUNDING)
    assert norm.item() == pytest.approx(expected.norm(p).item(), rel=ROUNDING)
    assert sizes.tolist() == expected.sizes().tolist()
    expected.scale(expected.norm(p).clamp(max=0.5))
    expected.scale(norms_.clamp(max=0.5).cpu())
    for ours, theirs in zip(given_.local, expected.local, strict=True):
        torch.testing.assert_close(
            ours.cpu(), theirs, rtol=1e-2 if ours.dtype == torch.bfloat16 else 1e-4, atol=0
        )


def test_a_factor_that_is_no_normal_float32_keeps_its_digits() -> None:
    for shape in ((), (2,)):
        given_ = look(torch.full((3,), 3.0e38), torch.full((2,), 2.0e38))
        given_.scale(torch.full(shape, 1.2345678e-41, dtype=torch.float64))
        found = torch.cat(list(given_.local)).double()
        expected = 1.2345678e-41 * torch.tensor([3.0e38] * 3 + [2.0e38] * 2, dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_are_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    for shape in ((), (1,)):
        given_ = look(torch.full((4,), 6.0e4, dtype=dtype))
        given_.scale(torch.full(shape, 3.3e-6, dtype=torch.float64))
        expected = (given_.local[0].new_full((), 6.0e4).double() * 3.3e-6).to(dtype)
        torch.testing.assert_close(given_.local[0], expected.expand(4), rtol=0, atol=0)
