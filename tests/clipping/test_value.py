"""g = clip(g, -eps, eps), bit for bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.clipping import ValueClip
from lightning_distill.errors import ConfigError
from lightning_distill.schedules.base import Schedule
from lightning_distill.units import Quantile, StandardDeviation, Unit
from lightning_distill.units.base import Total
from tests.builders import same_bits
from tests.verification import compared

SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 3e38, -3e38, 0.1, -0.1, 0.05, -7.0]
EPSILONS = [0.1, 1e-3, 0.3, 5.0, 1e-9]
"""In float16, 1e-9 is 0."""


def clipped(grad: Tensor, epsilon: float) -> Tensor:
    weight = nn.Parameter(torch.zeros_like(grad))
    weight.grad = grad.clone()
    ValueClip(epsilon).clip([weight])
    return weight.grad


def formula(grad: NDArray[np.floating], epsilon: float) -> NDArray[np.floating]:
    """np.clip in the dtype of the gradient."""
    bound = grad.dtype.type(epsilon)
    return np.clip(grad, -bound, bound)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_equals_the_formula(dtype: type, epsilon: float) -> None:
    with np.errstate(over="ignore"):
        grad = np.array(SPECIAL + list(np.random.default_rng(0).normal(size=200)), dtype=dtype)
    expected = torch.from_numpy(formula(grad, epsilon))
    found = clipped(torch.from_numpy(grad), epsilon)
    assert same_bits(found, expected)
    compared(ValueClip, found, expected, by="numpy.clip")


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_equals_the_formula_in_bfloat16(epsilon: float) -> None:
    """NumPy has no bfloat16: every bfloat16, the bound rounded to it included, is exact in float32."""
    grad = torch.cat([torch.tensor(SPECIAL), torch.randn(200)]).bfloat16()
    bound = torch.tensor(epsilon).bfloat16().item()
    expected = torch.from_numpy(formula(grad.float().numpy(), bound)).bfloat16()
    assert same_bits(clipped(grad, epsilon), expected)


FINITE = arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FINITE, st.floats(1e-6, 1e6))
def test_laws(grad: NDArray[np.float32], epsilon: float) -> None:
    g = torch.from_numpy(grad)
    once = clipped(g, epsilon)
    assert once.isfinite().all()
    assert (once.abs() <= torch.tensor(epsilon)).all()
    assert same_bits(clipped(once, epsilon), once)
    inside = g.abs() <= torch.tensor(epsilon)
    assert same_bits(once[inside], g[inside])
    assert (once[~inside].abs() == torch.tensor(epsilon)).all()
    assert same_bits(once.signbit().to(torch.uint8), g.signbit().to(torch.uint8))
    assert same_bits(clipped(-g, epsilon), -once)
    assert np.linalg.norm(once.double().numpy()) <= np.linalg.norm(grad.astype(np.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_below_the_bound_nothing_happens(dtype: torch.dtype) -> None:
    grad = torch.cat([torch.tensor([0.0, -0.0, 1e-40]), 0.1 * torch.randn(50)]).to(dtype)
    assert same_bits(clipped(grad, 1.0), grad)


def test_views_and_strides() -> None:
    weight = nn.Parameter(torch.zeros(3, 4))
    weight.grad = torch.randn(4, 3).mul_(3).t()
    expected = weight.grad.clamp(-1, 1)
    ValueClip(1.0).clip([weight])
    assert torch.equal(weight.grad, expected)


class _Falling(Schedule):
    """1 / (step + 1), and lower by a factor of 10 in each epoch; 0 from step 9."""

    def __call__(self, step: int, epoch: int) -> float:
        return 0.0 if step == 9 else math.nan if step > 9 else 10.0**-epoch / (step + 1)


class _Largest(Unit):
    def forward(self, tensors: Sequence[Tensor], *, fresh: bool = True, total: Total | None = None) -> Tensor:
        return torch.stack([x.abs().amax() for x in tensors]).amax().float()


def parameters(*grads: Tensor) -> list[nn.Parameter]:
    weights = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    return weights


def grads(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_equals_that_of_torch(dtype: torch.dtype, epsilon: float) -> None:
    shapes = [(7, 5), (3,), (), (2, 3, 4), (0,)]
    given = [torch.randn(shape).to(dtype) for shape in shapes]
    given.append(torch.tensor(SPECIAL).clamp(-6e4, 6e4).to(dtype))
    ours, theirs = parameters(*given), parameters(*given)
    ValueClip(epsilon).clip(ours)
    nn.utils.clip_grad_value_(theirs, epsilon)
    for a, b in zip(grads(ours), grads(theirs), strict=True):
        assert same_bits(a, b)
        compared(ValueClip, a, b, by="torch.nn.utils.clip_grad_value_")


@pytest.mark.skipif(find_spec("optax") is None, reason="needs optax")
def test_equals_that_of_optax(tmp_path: Path) -> None:
    """In a process of its own: jax and forks do not go together."""
    given = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    np.savez(tmp_path / "given.npz", given=given)
    code = (
        "import sys, numpy as np, optax\n"
        "g = np.load(sys.argv[1] + '/given.npz')['given']\n"
        "rule = optax.clip(0.3)\n"
        "np.savez(sys.argv[1] + '/out.npz', out=rule.update(g, rule.init(g))[0])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    expected = torch.from_numpy(np.load(tmp_path / "out.npz")["out"])
    found = clipped(torch.from_numpy(given), 0.3)
    assert same_bits(found, expected)
    compared(ValueClip, found, expected, by="optax.clip")


def test_a_bare_rule_reports_nothing() -> None:
    report = ValueClip(0.5).clip(parameters(torch.randn(3)))
    assert not report.values
    assert report.skip is None


def test_follows_a_schedule() -> None:
    rule = ValueClip(_Falling())
    for step, epoch, bound in [(0, 0, 1.0), (4, 0, 0.2), (4, 2, 0.002)]:
        weights = parameters(torch.tensor([7.0, -7.0, 1e-4]))
        report = rule.clip(weights, step=step, epoch=epoch)
        assert grads(weights)[0].tolist() == pytest.approx([bound, -bound, 1e-4])
        assert report.values["epsilon"].item() == pytest.approx(bound)


@pytest.mark.parametrize("step", [9, 10])
def test_a_schedule_that_goes_wrong_is_told_when_it_does(step: int) -> None:
    weights = parameters(torch.tensor([7.0]))
    with pytest.raises(
        ConfigError, match=rf"ValueClip\.epsilon at step {step}, epoch 3: found (0\.0|nan); expected a pos"
    ):
        ValueClip(_Falling()).clip(weights, step=step, epoch=3)
    assert grads(weights)[0].item() == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("epsilon", [0.25, _Falling()])
def test_bound_in_units_of_the_gradients(dtype: torch.dtype, epsilon: float | Schedule) -> None:
    weights = parameters(torch.tensor([8.0, -1.0], dtype=dtype), torch.tensor([3.0, 0.5], dtype=dtype))
    report = ValueClip(epsilon, _Largest()).clip(weights, step=3)
    assert torch.cat(grads(weights)).tolist() == [2.0, -1.0, 2.0, 0.5]
    assert report.values["epsilon"].item() == 2


def test_scale_free_with_a_unit() -> None:
    given = torch.randn(400)
    for unit in (StandardDeviation(), Quantile(0.9)):
        for scale in (1e-8, 1.0, 1e6):
            weights = parameters(scale * given)
            ValueClip(1.0, unit=type(unit)()).clip(weights)
            share = (grads(weights)[0] != scale * given).float().mean().item()
            expected = 0.317 if isinstance(unit, StandardDeviation) else 0.01
            assert share == pytest.approx(expected, abs=0.06)


def test_infinity_becomes_a_plausible_number_unless_guarded() -> None:
    """The formula; why guards exist."""
    given = torch.tensor([math.inf, -math.inf, math.nan, 0.3])
    assert clipped(given, 0.5)[[0, 1, 3]].tolist() == pytest.approx([0.5, -0.5, 0.3])
    assert clipped(given, 0.5)[2].isnan()


def test_a_tied_parameter_is_clipped_once() -> None:
    (weight,) = parameters(torch.tensor([3.0, -4.0]))
    ValueClip(1.0, _Largest()).clip([weight, weight])
    assert grads([weight])[0].tolist() == [3, -4]
    ValueClip(0.5, _Largest()).clip([("a", weight), ("b", weight)])
    assert grads([weight])[0].tolist() == [2, -2]


@pytest.mark.parametrize(
    ("kind", "grad"),
    [
        ("sparse", torch.sparse_coo_tensor([[1]], [2.0], (4,))),
        ("complex", torch.ones(4, dtype=torch.complex64)),
    ],
)
def test_unusual_gradients_are_refused_by_name(kind: str, grad: Tensor) -> None:
    weight = nn.Parameter(torch.zeros(4, dtype=grad.dtype))
    weight.grad = grad
    with pytest.raises(ConfigError, match=rf"gradient of 'embedding': found a {kind} gradient"):
        ValueClip(1.0).clip({"embedding": weight})


@pytest.mark.parametrize("epsilon", [0.0, -0.5, math.nan, math.inf])
def test_bad_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"ValueClip\.epsilon"):
        ValueClip(epsilon)
