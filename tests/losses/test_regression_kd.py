"""Regression distillation against its formula, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.losses import RegressionKD, regression_kd
from lightning_distill.structures import Outputs
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import draw, draw_target, gradient, value
from tests.verification import FORMULA, compared


def kd(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return regression_kd(s, t)


@pytest.mark.parametrize("shape", [*checks.SHAPES, (3, 1)])
def test_equals_the_formula(shape: tuple[int, int]) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape)
    compared(RegressionKD, value(kd, s, t, y), np.mean((s - t) ** 2), rtol=1e-12, by=FORMULA)
    compared(RegressionKD, gradient(kd, s, t, y), 2 * (s - t) / s.size, rtol=1e-12, by=FORMULA)


def test_properties() -> None:
    checks.passes_gradcheck(kd, RegressionKD)
    checks.teacher_gets_no_gradient(kd)
    checks.ignores_order(kd)
    checks.is_zero_at_the_teacher(kd)


def test_half_precision_is_squared_in_single() -> None:
    """300 squared is beyond half precision, the mean of it and three zeros is not."""
    s = torch.tensor([[300.0, 0.0, 0.0, 0.0]], dtype=torch.float16, requires_grad=True)
    found = regression_kd(s, torch.zeros(1, 4, dtype=torch.float16))
    found.backward()
    assert found.item() == pytest.approx(22500, rel=1e-3)
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_module_equals_function() -> None:
    checks.module_equals(RegressionKD(), kd)
    assert Outputs.LABELS not in RegressionKD.suits
