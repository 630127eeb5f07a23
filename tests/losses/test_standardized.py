"""Standardised logits against the paper, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import (
    DIST,
    DecoupledKD,
    LogitKD,
    ProxyKD,
    RegressionKD,
    StandardizedLogits,
    logit_kd,
    standardize,
)
from lightning_distill.structures import UNLABELLED
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, as_output, batch_with, draw, draw_target, softmax, value
from tests.verification import compared, gradchecked, guards


def z_score(z: Array) -> Array:
    return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, ddof=1, keepdims=True)


def reference(s: Array, t: Array, temperature: float) -> float:
    pairs = zip(softmax(z_score(t) / temperature), softmax(z_score(s) / temperature), strict=True)
    return temperature**2 * float(np.mean([checks.kl(p, q) for p, q in pairs]))


def as_loss(term: StandardizedLogits) -> Loss:
    return lambda s, t, y: term(as_output(s), as_output(t), batch_with(y))


def standardized_kd(temperature: float = 2.0) -> Loss:
    return as_loss(StandardizedLogits(LogitKD(temperature)))


@pytest.mark.parametrize("shape", checks.SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 2.0, 8.0])
def test_equals_the_paper(shape: tuple[int, int], temperature: float) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape)
    found = value(standardized_kd(temperature), s, t, y)
    compared(StandardizedLogits, found, reference(s, t, temperature), rtol=1e-9, atol=1e-12)


def test_standardize() -> None:
    z = draw(5, 7, scale=30.0)
    compared(StandardizedLogits, standardize(torch.from_numpy(z)), z_score(z), rtol=1e-12)
    assert standardize(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
    logits = torch.from_numpy(draw(3, 4)).requires_grad_()
    gradchecked(StandardizedLogits, standardize, logits)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_equal_logits_become_zero_with_a_finite_gradient(dtype: torch.dtype) -> None:
    z = torch.full((2, 5), 7.0, dtype=dtype, requires_grad=True)
    found = standardize(z)
    found.float().square().sum().backward()
    assert found.abs().max() == 0
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_a_head_of_zeros_gets_a_finite_gradient() -> None:
    s = torch.zeros(8, 5, requires_grad=True)
    standardized_kd()(s, torch.from_numpy(draw(8, 5)).float(), torch.zeros(8, dtype=torch.int64)).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_properties() -> None:
    for term in (LogitKD(2.0), DecoupledKD(temperature=2.0), DIST()):
        loss = as_loss(StandardizedLogits(term))
        checks.passes_gradcheck(loss, StandardizedLogits)
        checks.teacher_gets_no_gradient(loss)
        checks.ignores_order(loss)
        checks.ignores_shift(loss)
        checks.is_zero_at_the_teacher(loss)


@pytest.mark.parametrize("case", checks.HARD)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_stays_finite(case: str, dtype: torch.dtype) -> None:
    student, teacher, target = checks.HARD[case]
    s = torch.tensor(np.array(student), dtype=dtype, requires_grad=True)
    found = standardized_kd()(s, torch.tensor(np.array(teacher), dtype=dtype), torch.tensor(target))
    found.backward()
    assert found.dtype == dtype
    assert found.isfinite()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_scale_of_either_side_does_not_matter() -> None:
    s, t, y = draw(6, 5), draw(6, 5, seed=1), draw_target(6, 5)
    same = pytest.approx(value(standardized_kd(), s, t, y), rel=1e-9)
    assert value(standardized_kd(), 7 * s, t, y) == same
    assert value(standardized_kd(), s, 0.01 * t, y) == same


@guards(StandardizedLogits, "T² dropped where there are no labels")
def test_defect_1_and_3_temperature_squared_stays_whatever_the_labels() -> None:
    """Others drop T^2 where there is no target, 14 times less at T = 4."""
    s, t = draw(6, 5), draw(6, 5, seed=1)
    labelled, none = draw_target(6, 5), np.full(6, UNLABELLED)
    found = value(standardized_kd(4.0), s, t, none)
    assert found == value(standardized_kd(4.0), s, t, labelled)
    compared(StandardizedLogits, found, reference(s, t, 4.0), rtol=1e-9)


def test_module_is_the_inner_function_on_standardized_logits() -> None:
    def f(s: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return logit_kd(standardize(s), standardize(t), 2.0)

    checks.module_equals(StandardizedLogits(LogitKD(2.0)), f)


def test_terms_that_read_something_else_are_refused() -> None:
    with pytest.raises(ConfigError, match="RegressionKD, which takes no softmax"):
        StandardizedLogits(RegressionKD())
    with pytest.raises(ConfigError, match="reads proxy"):
        StandardizedLogits(ProxyKD(student="proxy", teacher="proxy"))
