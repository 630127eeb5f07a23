"""DKD against the paper, row by row in float64 NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import DecoupledKD, decoupled_kd, logit_kd
from lightning_distill.structures import UNLABELLED
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, Target, draw, draw_target, softmax, value
from tests.verification import compared, guards


def reference(s: Array, t: Array, y: Target, alpha: float, beta: float, temperature: float) -> float:
    """alpha TCKD + beta NCKD, from probabilities; plain KD where there is no label."""
    total = 0.0
    for zs, zt, target in zip(s / temperature, t / temperature, y, strict=True):
        p, q = softmax(zt), softmax(zs)
        if target == UNLABELLED:
            total += checks.kl(p, q)
            continue
        binary = [np.array([x[target], np.delete(x, target).sum()]) for x in (p, q)]
        rest = [np.delete(x, target) / np.delete(x, target).sum() for x in (p, q)]
        total += alpha * checks.kl(*binary) + beta * checks.kl(*rest)
    return temperature**2 * total / len(y)


def dkd(alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> Loss:
    return lambda s, t, y: decoupled_kd(s, t, y, alpha, beta, temperature)


@pytest.mark.parametrize("shape", checks.SHAPES)
@pytest.mark.parametrize("unlabelled", [(), (0,)])
@pytest.mark.parametrize("settings", [(1.0, 8.0, 4.0), (1.0, 0.5, 1.0), (0.0, 1.0, 0.5), (3.0, 0.0, 20.0)])
def test_equals_the_paper(
    shape: tuple[int, int], unlabelled: tuple[int, ...], settings: tuple[float, float, float]
) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape, unlabelled)
    expected = reference(s, t, y, *settings)
    compared(DecoupledKD, value(dkd(*settings), s, t, y), expected, rtol=1e-9, atol=1e-12)
    single = value(dkd(*settings), s, t, y, torch.float32)
    rounding = 1e-5 * settings[2] ** 2
    compared(DecoupledKD, single, expected, rtol=1e-5, atol=rounding, dtype=torch.float32)


def test_gradcheck() -> None:
    checks.passes_gradcheck(dkd(), DecoupledKD)
    checks.passes_gradcheck(dkd(0.3, 2.0, 1.0), DecoupledKD, classes=2)


def test_upstream_gradient_is_passed_on() -> None:
    s, t, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4), torch.tensor([0, 1, UNLABELLED])
    (once,) = torch.autograd.grad(decoupled_kd(s, t, y), s)
    (thrice,) = torch.autograd.grad(3 * decoupled_kd(s, t, y), s)
    torch.testing.assert_close(thrice, 3 * once)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(dkd())
    checks.ignores_order(dkd())
    checks.ignores_shift(dkd())
    checks.is_zero_at_the_teacher(dkd())
    checks.stays_finite(dkd())
    checks.stays_finite(dkd(1.0, 1.0, 1.0))
    checks.gradient_hardly_depends_on_temperature(lambda temperature: dkd(1.0, 8.0, temperature))


def test_the_two_parts_make_plain_distillation() -> None:
    """KD = TCKD + (1 - p_y) NCKD with the teacher's p_y: section 3 of the paper."""
    s, t, y = draw(1, 6), draw(1, 6, seed=1), draw_target(1, 6)
    rest = 1 - softmax(t / 4)[0, y[0]]
    plain = logit_kd(torch.from_numpy(s), torch.from_numpy(t), 4.0).item()
    assert value(dkd(1.0, rest), s, t, y) == pytest.approx(plain, rel=1e-12)


def test_rows_without_a_label_are_plain_distillation() -> None:
    s, t, y = draw(4, 6), draw(4, 6, seed=1), np.full(4, UNLABELLED)
    plain = logit_kd(torch.from_numpy(s), torch.from_numpy(t), 4.0).item()
    assert value(dkd(), s, t, y) == pytest.approx(plain, rel=1e-12)


def log_of_softmax(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """How others take the target part, at T = 1."""
    p, q = (x.softmax(dim=1).gather(1, y[:, None]) for x in (t, s))
    return (p * (p.log() - q.log()) + (1 - p) * ((1 - p).log() - (1 - q).log())).mean()


@guards(DecoupledKD, "logarithm of a softmax instead of log-softmax: infinite, gradient NaN, at a gap of 120")
def test_defect_4_log_of_a_softmax_is_infinite_at_a_gap_of_120() -> None:
    s = torch.tensor([[120.0, 0.0, -1.0], [0.0, 120.0, 3.0]], requires_grad=True)
    t, y = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.2, 1.0]]), torch.tensor([0, 0])
    assert not log_of_softmax(s, t, y).isfinite()
    found = decoupled_kd(s, t, y, 1.0, 8.0, 1.0)
    found.backward()
    expected = reference(s.detach().double().numpy(), t.double().numpy(), y.numpy(), 1.0, 8.0, 1.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert s.grad is not None
    assert s.grad.isfinite().all()


@guards(DecoupledKD, "logarithm of a softmax: infinite in half precision from a gap of 17")
def test_defect_4_half_precision_is_finite_from_a_gap_of_17() -> None:
    s = torch.tensor([[20.0, 0.0, -1.0]], dtype=torch.float16, requires_grad=True)
    t, y = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float16), torch.tensor([0])
    assert not log_of_softmax(s, t, y).isfinite()
    decoupled_kd(s, t, y, temperature=1.0).backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


@guards(DecoupledKD, "a sum over the batch where the paper has its mean")
def test_defect_4_the_mean_is_over_samples() -> None:
    s, t, y = draw(1, 6), draw(1, 6, seed=1), draw_target(1, 6)
    one = value(dkd(), s, t, y)
    assert value(dkd(), s.repeat(5, 0), t.repeat(5, 0), y.repeat(5)) == pytest.approx(one, rel=1e-12)


def test_defect_4_two_classes_leave_nothing_to_the_rest() -> None:
    s, t, y = draw(5, 2), draw(5, 2, seed=1), draw_target(5, 2)
    assert value(dkd(beta=8.0), s, t, y) == pytest.approx(value(dkd(beta=0.0), s, t, y), rel=1e-12)
    assert value(dkd(alpha=0.0), s, t, y) == pytest.approx(0, abs=1e-12)


def test_module_equals_function() -> None:
    checks.module_equals(DecoupledKD(0.5, 2.0, 3.0), dkd(0.5, 2.0, 3.0))


@pytest.mark.parametrize("weights", [(-1.0, 8.0), (1.0, -1.0), (0.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_bad_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="DecoupledKD"):
        DecoupledKD(*weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"DecoupledKD\.temperature"):
        DecoupledKD(temperature=temperature)
