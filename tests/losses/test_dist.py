"""DIST against NumPy's own correlation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import DIST, dist
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, draw, draw_target, gradient, softmax, value
from tests.verification import compared, guards

ROOT = Path(__file__).parents[2]
CORRCOEF = "float64 NumPy from the paper, with numpy.corrcoef"


def reference(s: Array, t: Array, beta: float, gamma: float, temperature: float) -> float:
    p, q = softmax(s / temperature), softmax(t / temperature)
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)]
    return temperature**2 * float(beta * (1 - np.mean(rows)) + gamma * (1 - np.mean(columns)))


def dist_loss(beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> Loss:
    return lambda s, t, y: dist(s, t, beta, gamma, temperature)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3), (4, 2), (16, 100)])
@pytest.mark.parametrize("settings", [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 0.5, 0.5)])
def test_equals_the_paper(shape: tuple[int, int], settings: tuple[float, float, float]) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape)
    expected = reference(s, t, *settings)
    compared(DIST, value(dist_loss(*settings), s, t, y), expected, rtol=1e-9, atol=1e-9, by=CORRCOEF)
    single = value(dist_loss(*settings), s, t, y, torch.float32)
    compared(DIST, single, expected, rtol=1e-4, atol=1e-4, by=CORRCOEF, dtype=torch.float32)


def test_gradcheck() -> None:
    checks.passes_gradcheck(dist_loss(), DIST)
    checks.passes_gradcheck(dist_loss(0.5, 2.0, 4.0), DIST)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(dist_loss())
    checks.ignores_order(dist_loss())
    checks.ignores_shift(dist_loss())
    checks.is_zero_at_the_teacher(dist_loss())


def test_stays_finite() -> None:
    for student, teacher, _ in checks.HARD.values():
        for dtype in checks.DTYPES:
            s = torch.tensor(np.array(student), dtype=dtype, requires_grad=True)
            found = dist(s, torch.tensor(np.array(teacher), dtype=dtype))
            found.backward()
            assert found.dtype == dtype
            assert 0 <= found.item() <= 4
            assert s.grad is not None
            assert s.grad.isfinite().all()


def test_a_batch_of_one_has_no_relation_between_samples() -> None:
    s, t, y = draw(1, 6), draw(1, 6, seed=1), draw_target(1, 6)
    assert value(dist_loss(gamma=9.0), s, t, y) == value(dist_loss(gamma=0.0), s, t, y)
    assert value(dist_loss(), s, s, y) == pytest.approx(0, abs=1e-12)


def test_only_relations_count() -> None:
    """An affine change of the student's probabilities costs nothing: that is what the paper relaxes."""
    t = softmax(draw(6, 5))
    s = np.log(0.5 * t + 0.5 / 5)
    assert value(dist_loss(), s, np.log(t), draw_target(6, 5)) == pytest.approx(0, abs=1e-9)


@guards(DIST, "a correlation instead of 1 minus it: an identical teacher costs 1, and so does its opposite")
def test_defect_5_equal_logits_cost_nothing_and_opposite_ones_much() -> None:
    z, y = draw(8, 5, scale=0.1), draw_target(8, 5)
    assert value(dist_loss(), z, z, y) == pytest.approx(0, abs=1e-9)
    assert value(dist_loss(), -z, z, y) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("classes", [10, 100])
@guards(DIST, "gradients of a million at a head of zeros")
def test_defect_17_gradient_at_a_head_of_zeros_is_bounded(classes: int) -> None:
    s = torch.zeros(64, classes, requires_grad=True)
    dist(s, torch.from_numpy(draw(64, classes)).float()).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert s.grad.abs().max() < 2e3  # of others: 1.2e6 with 10 classes, 1.3e5 with 100


def test_gradient_grows_with_temperature() -> None:
    """As the docstring says: in the limit a correlation does not depend on T, so T^2 is left over."""
    s, t, y = draw(16, 10, scale=1.0), draw(16, 10, seed=1, scale=1.0), draw_target(16, 10)
    norms = [np.linalg.norm(gradient(dist_loss(temperature=k), s, t, y)) for k in (100.0, 200.0)]
    assert norms[1] / norms[0] == pytest.approx(4, rel=0.05)


def test_module_equals_function() -> None:
    checks.module_equals(DIST(0.5, 2.0, 3.0), dist_loss(0.5, 2.0, 3.0))
    checks.module_equals(DIST(0.5, 2.0, 3.0, gather=True), dist_loss(0.5, 2.0, 3.0))


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (1.0, -1.0), (0.0, 0.0), (math.nan, 1.0)])
def test_bad_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="DIST"):
        DIST(*weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"DIST\.temperature"):
        DIST(temperature=temperature)
