"""g <- min(1, M / n) * g for all gradients together."""

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

from lightning_distill.clipping import ClipReport, NormClip
from lightning_distill.errors import ConfigError
from lightning_distill.schedules import Schedule
from tests.builders import same_bits
from tests.clipping.optax_apart import optax_edit
from tests.verification import compared, guards

SHAPES = [(4, 3), (5,), (), (2, 3, 2)]


def clipped(grads: list[Tensor], rule: NormClip) -> tuple[list[Tensor], ClipReport]:
    weights = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    report = rule.clip(weights)
    return [w.grad for w in weights if w.grad is not None], report


def draw(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [(scale * torch.randn(shape)).to(dtype) for shape in SHAPES]


def formula(grads: list[NDArray[Any]], bound: float, p: float) -> tuple[list[NDArray[Any]], float, float]:
    flat = np.abs(np.concatenate([g.astype(np.float64).ravel() for g in grads]))
    n = flat.max() if p == math.inf else np.sum(flat**p) ** (1 / p)
    c = min(1.0, bound / n) if n else 1.0
    return [c * g.astype(np.float64) for g in grads], float(n), c


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("bound", [0.1, 2.0, 1e3])
def test_equals_the_formula(p: float, bound: float) -> None:
    grads = draw(3.0)
    found, report = clipped(grads, NormClip(bound, p))
    expected, norm, coefficient = formula([g.numpy() for g in grads], bound, p)
    for a, b in zip(found, expected, strict=True):
        compared(NormClip, a, b, rtol=1e-5)
    assert set(report.values) == {"norm", "coefficient"}
    compared(NormClip, report.values["norm"], norm, rtol=1e-5, dtype=torch.float32)
    compared(NormClip, report.values["coefficient"], coefficient, rtol=1e-5, dtype=torch.float32)
    assert report.skip is None


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("scale", [1e-3, 5.0])
def test_equals_torch(p: float, scale: float) -> None:
    """torch divides by n + 1e-6."""
    grads = draw(scale)
    theirs = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for weight, grad in zip(theirs, grads, strict=True):
        weight.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0, p)
    ours, report = clipped(grads, NormClip(1.0, p))
    assert report.values["norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    for a, weight in zip(ours, theirs, strict=True):
        compared(NormClip, a, weight.grad, rtol=1e-5, by="torch.nn.utils.clip_grad_norm_")


def test_equals_optax() -> None:
    for scale in (1e-3, 5.0):
        grads = draw(scale)
        named = {f"p{i}": g.numpy() for i, g in enumerate(grads)}
        theirs = optax_edit("optax.clip_by_global_norm(1.0)", named)
        ours, _ = clipped(grads, NormClip(1.0))
        for a, b in zip(ours, theirs.values(), strict=True):
            compared(NormClip, a, b, rtol=1e-5, by="optax.clip_by_global_norm")


@guards(NormClip, "a tied parameter counted and scaled twice")
def test_a_tied_parameter_is_scaled_once() -> None:
    """torch scales it twice and counts it twice."""
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    NormClip(1.0).clip([("encoder.weight", weight), ("head.weight", weight)])
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("size", [1e20, 3e38, 1e-30, 1e-42])
@guards(NormClip, "large finite gradients become 0 because their squares overflow; small ones pass")
def test_finite_gradients_whose_squares_are_not_float32(size: float) -> None:
    """torch makes zeros of the large, and lets the small pass."""
    found, _ = clipped([torch.full((4,), size)], NormClip(size / 100))
    assert found[0].tolist() == pytest.approx([size / 200] * 4, rel=2e-3 if size < 1e-38 else 1e-5)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@guards(NormClip, "one infinite entry turns all finite ones into 0")
def test_gradients_that_are_not_finite_are_left_as_they_are(bad: float, p: float) -> None:
    """torch makes [nan, 0, 0] of [inf, 1, 2]."""
    grads = [torch.tensor([bad, 1.0, 2.0]), torch.tensor([1e3])]
    found, report = clipped(grads, NormClip(0.1, p))
    assert all(same_bits(a, b) for a, b in zip(found, grads, strict=True))
    assert not report.values["norm"].isfinite()
    assert report.values["coefficient"].item() == 1.0


def test_half_precision_whose_norm_is_none() -> None:
    """Norms above 65504 are infinite in float16, and all gradients would become 0."""
    found, report = clipped([torch.full((100,), 3e4, dtype=torch.float16)], NormClip(1.0))
    assert report.values["norm"].item() == pytest.approx(3e5, rel=1e-3)
    torch.testing.assert_close(found[0].float(), torch.full((100,), 0.1), rtol=1e-3, atol=0)


def test_the_bound_follows_its_schedule() -> None:
    class Halving(Schedule):
        def __call__(self, step: int, epoch: int) -> float:
            return 0.5**step - (epoch == 9)

    rule = NormClip(Halving())
    for step in range(3):
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([7.0])
        rule.clip([weight], step=step)
        assert weight.grad.item() == pytest.approx(0.5**step)
    with pytest.raises(ConfigError, match=r"NormClip\.max_norm at step 4, epoch 9"):
        rule.clip([weight], step=4, epoch=9)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bounds_that_are_none_are_refused(bad: float) -> None:
    """torch climbs with -1, and makes all NaN with NaN."""
    with pytest.raises(ConfigError, match=r"NormClip\.max_norm"):
        NormClip(bad)


@pytest.mark.parametrize("bad", [0.0, 0.5, -2.0, math.nan])
def test_what_is_no_norm_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match=r"NormClip\.p"):
        NormClip(1.0, bad)


FINITE = arrays(np.float32, 6, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
ROUNDING = 1e-5
"""A multiplication, a norm in float32, and p-th powers."""


@given(FINITE, st.floats(0.1, 1e6), st.sampled_from([1.0, 2.0, 3.0, math.inf]))
def test_laws(values: NDArray[np.float32], bound: float, p: float) -> None:
    grads, rule = list(torch.from_numpy(values).split(4)), NormClip(bound, p)
    once, report = clipped(grads, rule)
    _, before, _ = formula([values], bound, p)
    _, after, _ = formula([g.numpy() for g in once], bound, p)
    assert all(g.isfinite().all() for g in once)
    assert after <= min(before, bound * (1 + ROUNDING))
    if before < bound * (1 - ROUNDING):
        assert all(same_bits(a, b) for a, b in zip(once, grads, strict=True))
    twice, _ = clipped(once, rule)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(b, a, rtol=ROUNDING, atol=1e-44)
    turned, _ = clipped([-g for g in grads], rule)
    assert all(same_bits(-a, b) for a, b in zip(once, turned, strict=True))
    assert 0 < report.values["coefficient"] <= 1


def test_nothing_is_written_below_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = draw()
    weights = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    versions = [g._version for g in grads]
    NormClip(1e3).clip(weights)
    assert [g._version for g in grads] == versions
