"""AGC: |g_i| <= f * max(|w_i|, floor), unit by unit."""

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
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from lightning_distill.clipping import AdaptiveClip
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import gradients_of
from lightning_distill.schedules import Schedule
from tests.builders import same_bits
from tests.clipping.optax_apart import optax_edit
from tests.verification import compared

SHAPES = {
    "conv.weight": (6, 3, 2, 2),
    "line.weight": (5, 4, 3),
    "fc.weight": (40, 6),
    "fc.bias": (5,),
    "t": (),
}
Named = dict[str, nn.Parameter]


def draw(spread: float = 2.0) -> Named:
    """Rows of very different sizes."""
    made = {}
    for name, shape in SHAPES.items():
        rows = torch.randn((*shape[:1], *[1] * (len(shape) - 1))).mul(spread).exp()
        made[name] = nn.Parameter(0.1 * torch.randn(shape))
        made[name].grad = 0.003 * rows * torch.randn(shape)
    return made


def units(x: NDArray[Any]) -> NDArray[np.float64]:
    """The 2-norm of each unit, in the shape of what it belongs to."""
    wide = x.astype(np.float64)
    axes = tuple(range(1, x.ndim)) if x.ndim > 1 else None
    return np.broadcast_to(np.sqrt(np.sum(wide**2, axis=axes, keepdims=True)), x.shape)


def formula(w: NDArray[Any], g: NDArray[Any], factor: float, floor: float) -> NDArray[np.float64]:
    """Equation 3 of the paper."""
    limit, norm = factor * np.maximum(units(w), floor), units(g)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > limit, limit / norm * g.astype(np.float64), g.astype(np.float64))


def large_share(pairs: list[tuple[NDArray[Any], NDArray[Any]]], factor: float, floor: float) -> float:
    """Of the units, how many the formula changes."""
    large: list[bool] = []
    for w, g in pairs:
        found = units(g) > factor * np.maximum(units(w), floor)
        large += found.reshape(len(w), -1)[:, 0].tolist() if w.ndim > 1 else [bool(found.flat[0])]
    return sum(large) / len(large)


def numbers(given_: Named) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return [(p.detach().numpy().copy(), p.grad.numpy().copy()) for p in given_.values() if p.grad is not None]


@pytest.mark.parametrize("factor", [1e-3, 0.02, 0.3, 5.0])
@pytest.mark.parametrize("floor", [1e-3, 0.2])
def test_equals_the_formula(factor: float, floor: float) -> None:
    """From all units clipped to few, which the CPU writes in different ways."""
    given_ = draw()
    before = numbers(given_)
    report = AdaptiveClip(factor, floor, exclude=()).clip(given_)
    for (w, g), (_, found) in zip(before, numbers(given_), strict=True):
        compared(AdaptiveClip, found, formula(w, g, factor, floor), rtol=1e-5, dtype=torch.float32)
    assert report.values["clipped_units"].item() == pytest.approx(large_share(before, factor, floor))


@pytest.mark.parametrize("factor", [1e-3, 0.02, 0.3])
def test_equals_timm(factor: float) -> None:
    ours, theirs = draw(), {}
    for name, parameter in ours.items():
        theirs[name] = nn.Parameter(parameter.detach().clone())
        theirs[name].grad = None if parameter.grad is None else parameter.grad.clone()
    adaptive_clip_grad(theirs.values(), clip_factor=factor, eps=1e-3)
    AdaptiveClip(factor, exclude=()).clip(ours)
    for name in ours:
        compared(
            AdaptiveClip, ours[name].grad, theirs[name].grad, rtol=1e-5, by="timm.utils.adaptive_clip_grad"
        )


def test_equals_optax() -> None:
    """Its units are what has one index in the last dimension: kernels are laid out the other way round."""
    given_ = draw()
    turned = {name: tuple(range(p.ndim))[::-1] for name, p in given_.items() if name != "line.weight"}
    before = dict(zip(given_, numbers(given_), strict=True))
    grads = {name: before[name][1].transpose(order).copy() for name, order in turned.items()}
    weights = {name: before[name][0].transpose(order).copy() for name, order in turned.items()}
    theirs = optax_edit("optax.adaptive_grad_clip(0.02, 1e-3)", grads, weights)
    AdaptiveClip(0.02, exclude=()).clip(given_)
    for name, order in turned.items():
        grad = given_[name].grad
        assert grad is not None
        compared(AdaptiveClip, grad, theirs[name].transpose(order), rtol=1e-5, by="optax.adaptive_grad_clip")


def test_the_head_is_known_by_its_name_wherever_it_stands() -> None:
    """timm leaves out the last two, be they of the head or not."""
    names = [
        "head.weight",
        "encoders.a.weight",
        "headroom.weight",
        "adaptor.weight",
        "encoders.a.stem.weight",
    ]
    given_ = {name: nn.Parameter(torch.ones(2, 2)) for name in names}
    for parameter in given_.values():
        parameter.grad = torch.ones(2, 2)
    AdaptiveClip(0.01, exclude=("head", "encoders.a.stem")).clip(given_)
    kept = [name for name, p in given_.items() if p.grad is not None and p.grad.mean() == 1]
    assert kept == ["head.weight", "encoders.a.stem.weight"]


def test_nothing_left_to_clip() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    report = AdaptiveClip().clip({"head.bias": weight})
    assert report.values["clipped_units"].item() == 0
    assert weight.grad.tolist() == [1, 1]


def test_weights_of_zero_learn() -> None:
    """Without a floor their gradients would be 0 for ever."""
    for shape in [(3, 4), (4,)]:
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        AdaptiveClip(0.01, 1e-3).clip({"w": weight})
        norms = weight.grad.norm(dim=-1)
        torch.testing.assert_close(norms, torch.full_like(norms, 1e-5), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_unit_that_is_not_finite_is_left_and_spoils_no_other(bad: float, rows: int) -> None:
    weight, bias = nn.Parameter(torch.ones(rows, 4)), nn.Parameter(torch.ones(4))
    weight.grad, bias.grad = torch.randn(rows, 4), torch.randn(4)
    weight.grad[1, 2] = bias.grad[0] = bad
    before, kept = weight.grad.clone(), bias.grad.clone()
    AdaptiveClip(0.01).clip({"w": weight, "b": bias})
    assert same_bits(weight.grad[1], before[1])
    assert same_bits(bias.grad, kept)
    others = [i for i in range(rows) if i != 1]
    expected = formula(np.ones((rows, 4)), before.numpy(), 0.01, 1e-3)[others]
    np.testing.assert_allclose(weight.grad[others].numpy(), expected, rtol=1e-5)


def test_units_whose_squares_overflow_are_clipped_too() -> None:
    """At least as much as the formula says, and at most sqrt(size) times more; |w_i| = 2."""
    weight = nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.tensor([[1e30, 0, 0, 0], [3e38, -3e38, 3e38, 3e38], [1e-4, 0, 0, 0]])
    AdaptiveClip(0.01).clip({"w": weight})
    assert 0.02 / 2 * (1 - 1e-5) <= weight.grad[0].norm().item() <= 0.02
    # The factor, 3e-41, has few digits in float32.
    assert weight.grad[1].tolist() == pytest.approx([0.01, -0.01, 0.01, 0.01], rel=1e-4)
    assert weight.grad[2].tolist() == pytest.approx([1e-4, 0, 0, 0])


def test_layouts_of_memory() -> None:
    grad = torch.randn(16, 3, 4, 4)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        for factor in (0.5, 0.01):
            weight = nn.Parameter(torch.ones(16, 3, 4, 4).to(memory_format=layout))
            weight.grad = grad.clone().to(memory_format=layout)
            weight.grad[0] *= 100
            AdaptiveClip(factor).clip({"w": weight})
            results.append(weight.grad.contiguous())
    assert not torch.equal(results[0], grad)
    for one, other in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_the_factor_follows_its_schedule() -> None:
    class Growing(Schedule):
        def __call__(self, step: int, epoch: int) -> float:
            return 0.1 * step

    rule, weight = AdaptiveClip(Growing()), nn.Parameter(torch.tensor([3.0, 4.0]))
    for step in (1, 2):
        weight.grad = torch.tensor([30.0, 40.0])
        rule.clip({"w": weight}, step=step)
        assert weight.grad.norm().item() == pytest.approx(0.5 * step)
    with pytest.raises(ConfigError, match=r"AdaptiveClip\.factor at step 0"):
        rule.clip({"w": weight}, step=0)


@pytest.mark.parametrize(
    ("factor", "floor"),
    [(0.0, 1e-3), (-1.0, 1e-3), (math.nan, 1e-3), (math.inf, 1e-3), (0.1, 0.0), (0.1, -1.0)],
)
def test_bad_arguments_are_refused(factor: float, floor: float) -> None:
    with pytest.raises(ConfigError, match=r"AdaptiveClip\.(factor|floor)"):
        AdaptiveClip(factor, floor)


def test_pieces_without_rows_are_refused() -> None:
    weight = nn.Parameter(torch.ones(7))
    weight.grad = torch.ones(7)
    gradients = gradients_of({"encoder.weight": weight}, split_over="a process group")
    with pytest.raises(ConfigError, match=r"'encoder\.weight'.*FSDP1.*FSDP2"):
        AdaptiveClip().edit(gradients)


FINITE = arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ROUNDING = 1e-5
"""A multiplication and norms in float32."""


@given(FINITE, st.floats(1e-2, 10), st.booleans())
def test_laws(values: NDArray[np.float32], factor: float, vector: bool) -> None:
    g = torch.from_numpy(values)
    g = g.flatten() if vector else g

    def clip(grad: torch.Tensor) -> torch.Tensor:
        weight = nn.Parameter(torch.ones_like(grad))
        weight.grad = grad.clone()
        AdaptiveClip(factor).clip({"w": weight})
        return weight.grad

    once, size = clip(g), units(values.ravel() if vector else values)
    after, limit = units(once.numpy()), factor * units(np.ones(g.shape))
    assert once.isfinite().all()
    assert (after <= np.minimum(size, limit * (1 + ROUNDING))).all()
    inside = torch.from_numpy(size < limit * (1 - ROUNDING))
    assert same_bits(once[inside], g[inside])
    torch.testing.assert_close(clip(once), once, rtol=ROUNDING, atol=1e-44)
    assert same_bits(clip(-g), -once)
