"""OFA against its formula, in float64 NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.losses import OneForAll, one_for_all
from lightning_distill.structures import UNLABELLED
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, Target, draw, draw_target, gradient, softmax, value
from tests.verification import compared


def reference(s: Array, t: Array, y: Target, power: float) -> float:
    total = 0.0
    for p, q, target in zip(softmax(t), softmax(s), y, strict=True):
        for c in range(len(p)):
            one = float(c == target)
            total -= ((p[c] + one) ** power - one) * math.log(q[c])
    return total / len(y)


def ofa(power: float = 1.5) -> Loss:
    return lambda s, t, y: one_for_all(s, t, y, power)


@pytest.mark.parametrize("shape", checks.SHAPES)
@pytest.mark.parametrize("unlabelled", [(), (0,)])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
def test_equals_the_formula(shape: tuple[int, int], unlabelled: tuple[int, ...], power: float) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape, unlabelled)
    compared(OneForAll, value(ofa(power), s, t, y), reference(s, t, y, power), rtol=1e-9)


def test_gradcheck() -> None:
    checks.passes_gradcheck(ofa(), OneForAll)
    checks.passes_gradcheck(ofa(1.0), OneForAll, classes=2)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(ofa())
    checks.ignores_order(ofa())
    checks.ignores_shift(ofa())
    checks.stays_finite(ofa())


def test_power_1_is_cross_entropy_with_the_teacher() -> None:
    s, t, y = draw(5, 6), draw(5, 6, seed=1), draw_target(5, 6)
    expected = -np.mean(np.sum(softmax(t) * np.log(softmax(s)), axis=1))
    assert value(ofa(1.0), s, t, y) == pytest.approx(expected, rel=1e-12)
    assert value(ofa(1.0), s, t, np.full(5, UNLABELLED)) == pytest.approx(expected, rel=1e-12)


def test_a_larger_power_turns_to_the_target() -> None:
    s, t, y = np.zeros((4, 5)), draw(4, 5), draw_target(4, 5)
    weight = [-gradient(ofa(power), s, t, y)[np.arange(4), y] for power in (1.0, 1.5, 2.0)]
    assert (weight[0] < weight[1]).all()
    assert (weight[1] < weight[2]).all()


def test_is_not_zero_at_the_teacher() -> None:
    z, y = draw(4, 5), draw_target(4, 5)
    assert value(ofa(), z, z, y) > 0.1
    assert np.abs(gradient(ofa(), z, z, y)).max() > 1e-3


def test_module_equals_function() -> None:
    checks.module_equals(OneForAll(1.2), ofa(1.2))


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
def test_bad_power_is_refused(power: float) -> None:
    with pytest.raises(ConfigError, match=r"OneForAll\.power"):
        OneForAll(power)
