"""C2KD's selective term against SciPy and NumPy, row by row."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau

from lightning_distill.errors import ConfigError
from lightning_distill.losses import ProxyKD, kendall_tau, logit_kd, proxy_kd
from lightning_distill.structures import UNLABELLED
from tests.builders import make_batch, make_output
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, Target, draw, draw_target, softmax, value
from tests.verification import compared, guards

SCIPY = "scipy.stats.kendalltau"


def reference(s: Array, t: Array, y: Target, threshold: float, temperature: float) -> float:
    total = 0.0
    for zs, zt, target in zip(s, t, y, strict=True):
        if kendalltau(zs, zt).statistic > threshold:
            rest = [z if target == UNLABELLED else np.delete(z, target) for z in (zt, zs)]
            total += checks.kl(*(softmax(z / temperature) for z in rest))
    return temperature**2 * total / len(y)


def selective(threshold: float = 0.0, temperature: float = 1.0) -> Loss:
    return lambda s, t, y: proxy_kd(s, t, y, threshold, temperature)


def taus(x: Array, y: Array) -> Array:
    return np.array([kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 16, 17, 100])
@pytest.mark.parametrize("values", [2, 4, 1000])
def test_tau_is_scipys_with_and_without_ties(classes: int, values: int) -> None:
    rng = np.random.default_rng(classes)
    x, y = (rng.integers(0, values, (20, classes)).astype(float) for _ in range(2))
    found = kendall_tau(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    compared(ProxyKD, found, taus(x, y), rtol=1e-7, atol=1e-12, by=SCIPY)  # NaN where SciPy has it


@given(*(arrays(np.float64, (2, 9), elements=st.integers(-3, 3).map(float)) for _ in range(2)))
def test_tau_is_scipys_for_any_ties(x: Array, y: Array) -> None:
    found = kendall_tau(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    compared(ProxyKD, found, taus(x, y), rtol=1e-7, atol=1e-12, by=SCIPY)


def test_tau_of_a_thousand_classes_is_exact_in_single_precision() -> None:
    x, y = draw(4, 1000), draw(4, 1000) + draw(4, 1000, seed=1)
    found = kendall_tau(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    compared(ProxyKD, found, taus(x.astype(np.float32), y.astype(np.float32)), rtol=1e-6, by=SCIPY)


@pytest.mark.parametrize("shape", [*checks.SHAPES, (32, 10)])
@pytest.mark.parametrize("unlabelled", [(), (0,)])
@pytest.mark.parametrize("settings", [(0.0, 1.0), (-1.0, 4.0), (0.2, 0.5)])
def test_equals_the_paper(
    shape: tuple[int, int], unlabelled: tuple[int, ...], settings: tuple[float, float]
) -> None:
    t, y = draw(*shape), draw_target(*shape, unlabelled)
    s = t + draw(*shape, seed=1)
    expected = reference(s, t, y, *settings)
    compared(ProxyKD, value(selective(*settings), s, t, y), expected, rtol=1e-9, atol=1e-12)
    reverse = reference(t, s, y, *settings)
    compared(ProxyKD, value(selective(*settings), t, s, y), reverse, rtol=1e-9, atol=1e-12)


def test_gradcheck() -> None:
    checks.passes_gradcheck(selective(-1.0), ProxyKD)
    checks.passes_gradcheck(selective(0.0, 4.0), ProxyKD, classes=7)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(selective(-1.0))
    checks.ignores_order(selective())
    checks.ignores_shift(selective())
    checks.is_zero_at_the_teacher(selective())
    checks.stays_finite(selective(-1.0))
    checks.stays_finite(selective(-1.0, 4.0))
    checks.gradient_hardly_depends_on_temperature(lambda temperature: selective(-1.0, temperature))


def test_a_sample_that_is_not_selected_has_no_part() -> None:
    t = draw(1, 6)
    pair, y = np.concatenate([t, -t]), np.array([0, 0])
    both = np.concatenate([t * 2, t * 2])
    s = torch.from_numpy(both).requires_grad_()
    proxy_kd(s, torch.from_numpy(pair), torch.from_numpy(y)).backward()
    assert s.grad is not None
    assert s.grad[0].abs().max() > 0
    assert s.grad[1].abs().max() == 0


def test_nothing_selected_is_zero_with_a_gradient_of_zero() -> None:
    t = torch.from_numpy(draw(4, 5))
    s = (-t).requires_grad_()
    found = proxy_kd(s, t, torch.zeros(4, dtype=torch.int64))
    found.backward()
    assert found.item() == 0
    assert s.grad is not None
    assert s.grad.abs().max() == 0


def test_selection_is_the_same_in_both_directions() -> None:
    s, t = torch.from_numpy(draw(64, 5)), torch.from_numpy(draw(64, 5, seed=1))
    torch.testing.assert_close(kendall_tau(s, t), kendall_tau(t, s))


def test_rows_without_a_label_are_plain_distillation() -> None:
    t = draw(6, 5)
    s, y = t + draw(6, 5, seed=1, scale=0.1), np.full(6, UNLABELLED)
    plain = logit_kd(torch.from_numpy(s), torch.from_numpy(t), 3.0).item()
    assert value(selective(0.0, 3.0), s, t, y) == pytest.approx(plain, rel=1e-9)


@guards(ProxyKD, "the target's logit set to 0 instead of left out, so that it keeps a share")
def test_defect_15_the_target_is_left_out_not_set_to_0() -> None:
    """Others multiply its logit by 0, and so keep a class of logit 0 among the rest."""
    s, t, y = np.array([[5.0, 1.0, 0.5]]), np.array([[5.0, 2.0, -1.0]]), np.array([0])
    p, q = softmax(np.array([2.0, -1.0])), softmax(np.array([1.0, 0.5]))
    assert value(selective(), s, t, y) == pytest.approx(checks.kl(p, q), rel=1e-12)
    with_zero = softmax(np.array([0.0, 2.0, -1.0])), softmax(np.array([0.0, 1.0, 0.5]))
    assert abs(checks.kl(*with_zero) - checks.kl(p, q)) > 1e-2
    higher = s + np.array([[5.0, 0.0, 0.0]])
    assert value(selective(), higher, t, y) == pytest.approx(value(selective(), s, t, y), rel=1e-12)


def test_module_equals_function() -> None:
    checks.module_equals(ProxyKD(-0.5, 2.0), selective(-0.5, 2.0))


def test_module_reads_the_proxies_it_is_told() -> None:
    student, teacher, batch = make_output(), make_output(), make_batch(size=6)
    student = replace(student, layers={"proxy": torch.randn(6, 4)})
    teacher = replace(teacher, layers={"head.proxy": torch.randn(6, 4)})
    loss = ProxyKD(-1.0, student="proxy", teacher="head.proxy")
    assert (loss.student_layers, loss.teacher_layers) == (("proxy",), ("head.proxy",))
    proxies = student.layers["proxy"], teacher.layers["head.proxy"]
    assert loss(student, teacher, batch) == proxy_kd(*proxies, batch["target"], -1.0)


@pytest.mark.parametrize("threshold", [-1.1, 1.0, math.nan])
def test_bad_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"ProxyKD\.threshold"):
        ProxyKD(threshold)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"ProxyKD\.temperature"):
        ProxyKD(temperature=temperature)
