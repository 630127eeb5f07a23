"""Generalised JSD against the paper, in float64 NumPy."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import JensenShannon, jensen_shannon
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, draw, draw_target, softmax, value
from tests.verification import compared


def reference(s: Array, t: Array, beta: float, temperature: float) -> float:
    total = 0.0
    for p, q in zip(softmax(t / temperature), softmax(s / temperature), strict=True):
        m = beta * p + (1 - beta) * q
        total += beta * checks.kl(p, m) + (1 - beta) * checks.kl(q, m)
    return temperature**2 * total / len(s)


def kl_mean(a: Array, b: Array) -> float:
    return sum(checks.kl(p, q) for p, q in zip(softmax(a), softmax(b), strict=True)) / len(a)


def jsd(beta: float = 0.5, temperature: float = 1.0) -> Loss:
    return lambda s, t, y: jensen_shannon(s, t, beta, temperature)


@pytest.mark.parametrize("shape", checks.SHAPES)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_the_paper(shape: tuple[int, int], beta: float, temperature: float) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape)
    expected = reference(s, t, beta, temperature)
    compared(JensenShannon, value(jsd(beta, temperature), s, t, y), expected, rtol=1e-9)


def test_gradcheck() -> None:
    checks.passes_gradcheck(jsd(), JensenShannon)
    checks.passes_gradcheck(jsd(0.1, 4.0), JensenShannon)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(jsd())
    checks.ignores_order(jsd(0.3))
    checks.ignores_shift(jsd(0.3))
    checks.is_zero_at_the_teacher(jsd(0.3))
    checks.stays_finite(jsd(0.3))
    checks.stays_finite(jsd(0.5, 4.0))
    checks.gradient_hardly_depends_on_temperature(lambda temperature: jsd(0.5, temperature))


def test_exchanging_both_sides_exchanges_beta() -> None:
    s, t, y = draw(5, 6), draw(5, 6, seed=1), draw_target(5, 6)
    assert value(jsd(0.2), s, t, y) == pytest.approx(value(jsd(0.8), t, s, y), rel=1e-12)


def test_is_bounded() -> None:
    s = torch.tensor([[1e3, 0.0]])
    assert jensen_shannon(s, -s).item() == pytest.approx(math.log(2), rel=1e-6)


def test_limits_divided_by_beta_are_the_two_divergences() -> None:
    s, t, y = draw(5, 6), draw(5, 6, seed=1), draw_target(5, 6)
    assert value(jsd(1e-6), s, t, y) / 1e-6 == pytest.approx(kl_mean(t, s), rel=1e-3)
    assert value(jsd(1 - 1e-6), s, t, y) / 1e-6 == pytest.approx(kl_mean(s, t), rel=1e-3)


def test_small_differences_cost_a_quarter_of_kl() -> None:
    """As the docstring says of beta = 0.5."""
    t = draw(5, 6)
    s, y = t + draw(5, 6, seed=1, scale=1e-3), draw_target(5, 6)
    assert value(jsd(), s, t, y) / kl_mean(t, s) == pytest.approx(0.25, rel=1e-2)


def test_module_equals_function() -> None:
    checks.module_equals(JensenShannon(0.3, 2.0), jsd(0.3, 2.0))


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_bad_beta_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match=r"JensenShannon\.beta"):
        JensenShannon(beta)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"JensenShannon\.temperature"):
        JensenShannon(temperature=temperature)
