"""Consistency between the student's and the teacher's view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import Consistency, OnTarget, consistency
from lightning_distill.structures import Batch
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import SHAPES, Array, as_output, batch_with, draw, softmax
from tests.verification import compared

THRESHOLDS = [0.0, 0.5, 1.0]


def reference(student: Array, teacher: Array, threshold: float) -> float:
    """J of the mean teacher: E |f(x, theta') - f(x, theta)|^2, of rows whose confidence is high enough."""
    p, q = softmax(student), softmax(teacher)
    rows = [np.sum((p[i] - q[i]) ** 2) if np.max(q[i]) >= threshold else 0.0 for i in range(len(p))]
    return float(np.mean(rows))


def term(threshold: float = 0.4) -> checks.Loss:
    return lambda s, t, y: consistency(s, t, threshold)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_is_the_formula_of_the_paper(shape: tuple[int, int], threshold: float) -> None:
    student, teacher = draw(*shape), draw(*shape, seed=1)
    value = consistency(torch.from_numpy(student), torch.from_numpy(teacher), threshold)
    compared(Consistency, value, reference(student, teacher, threshold), rtol=1e-12, atol=1e-15)


def test_is_zero_at_the_teacher_and_two_at_its_opposite() -> None:
    checks.is_zero_at_the_teacher(term())
    sure = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    assert consistency(sure.flip(1), sure).item() == pytest.approx(2.0)


def test_threshold_1_takes_no_row_and_0_takes_all() -> None:
    student, teacher = draw(5, 4), draw(5, 4, seed=1)
    assert consistency(torch.from_numpy(student), torch.from_numpy(teacher), 1.0).item() == 0
    flat = torch.zeros(5, 4, dtype=torch.float64)
    assert consistency(torch.from_numpy(student), flat, 0.0).item() > 0
    assert consistency(torch.from_numpy(student), flat, 0.26).item() == 0


def test_an_unsure_row_counts_as_0_and_stays_in_the_mean() -> None:
    student, sure, unsure = draw(1, 3), np.array([[9.0, 0, 0]]), np.zeros((1, 3))
    alone = reference(student, sure, 0.9)
    both = (np.concatenate([student, student]), np.concatenate([sure, unsure]))
    assert consistency(*map(torch.from_numpy, both), 0.9).item() == pytest.approx(alone / 2)


def test_gradients_order_and_hard_cases() -> None:
    checks.passes_gradcheck(term(), Consistency)
    checks.teacher_gets_no_gradient(term(0.0))
    checks.ignores_order(term())
    checks.ignores_shift(term())
    checks.stays_finite(term(0.0))


def test_no_row_gives_0_with_a_gradient_of_0() -> None:
    for rows, threshold in ((0, 0.0), (3, 1.0)):
        student = torch.randn(rows, 4, requires_grad=True)
        value = consistency(student, torch.randn(rows, 4), threshold)
        value.backward()
        assert value.item() == 0
        assert student.grad is not None
        assert not student.grad.any()


def test_module_equals_function_with_labels_or_without() -> None:
    checks.module_equals(Consistency(0.5), term(0.5))


def test_rows_of_the_target_alone() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    rows = torch.tensor([0, 1, 0, 0, 1, 1]).bool()
    batch: Batch = {**batch_with(torch.arange(6) % 4), "in_target_domain": rows}  # type: ignore[typeddict-item]
    found = OnTarget(Consistency())(as_output(student), as_output(teacher), batch)
    torch.testing.assert_close(found, consistency(student[rows], teacher[rows]))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_none(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"Consistency\.threshold.*a probability"):
        Consistency(threshold)
