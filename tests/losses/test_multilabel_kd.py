"""Multi-label distillation against its formula, in float64 NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.losses import MultilabelKD, logit_kd, multilabel_kd
from lightning_distill.structures import Outputs
from tests.losses import logit_checks as checks
from tests.losses.logit_checks import Array, Loss, draw, draw_target, value
from tests.verification import FORMULA, compared


def reference(s: Array, t: Array, temperature: float) -> float:
    total = 0.0
    for a, b in zip(s.ravel() / temperature, t.ravel() / temperature, strict=True):
        q, p = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * total / len(s)


def kd(temperature: float = 1.0) -> Loss:
    return lambda s, t, y: multilabel_kd(s, t, temperature)


@pytest.mark.parametrize("shape", [*checks.SHAPES, (3, 1)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_the_formula(shape: tuple[int, int], temperature: float) -> None:
    s, t, y = draw(*shape), draw(*shape, seed=1), draw_target(*shape)
    compared(
        MultilabelKD, value(kd(temperature), s, t, y), reference(s, t, temperature), rtol=1e-9, by=FORMULA
    )


def test_gradcheck() -> None:
    checks.passes_gradcheck(kd(), MultilabelKD)
    checks.passes_gradcheck(kd(4.0), MultilabelKD)


def test_properties() -> None:
    checks.teacher_gets_no_gradient(kd())
    checks.ignores_order(kd())
    checks.is_zero_at_the_teacher(kd())
    checks.stays_finite(kd())
    checks.stays_finite(kd(4.0))
    checks.gradient_hardly_depends_on_temperature(kd)


def test_a_class_is_two_exclusive_ones() -> None:
    """sigmoid(z) is the softmax of (z, 0): one class is plain distillation with two."""
    s, t = torch.from_numpy(draw(5, 1)), torch.from_numpy(draw(5, 1, seed=1))
    pairs = [torch.cat([z, torch.zeros_like(z)], dim=1) for z in (s, t)]
    assert multilabel_kd(s, t, 3.0).item() == pytest.approx(logit_kd(*pairs, 3.0).item(), rel=1e-12)


def test_adds_up_over_classes() -> None:
    s, t, y = draw(5, 4), draw(5, 4, seed=1), draw_target(5, 4)
    parts = [value(kd(), s[:, [c]], t[:, [c]], y) for c in range(4)]
    assert value(kd(), s, t, y) == pytest.approx(sum(parts), rel=1e-12)


def test_classes_do_not_exclude_each_other() -> None:
    """Unlike a softmax, it sees that the student is less sure of every class."""
    s, t, y = draw(5, 4), draw(5, 4) + 3.0, draw_target(5, 4)
    assert value(kd(), s, t, y) > 0.5
    assert MultilabelKD.suits == {Outputs.LABELS}


def test_gradient_does_not_end_where_probabilities_round_to_1() -> None:
    s = torch.tensor([[40.0]], requires_grad=True)
    multilabel_kd(s, torch.tensor([[-40.0]])).backward()
    assert s.grad is not None
    assert s.grad.item() == pytest.approx(1)


def test_module_equals_function() -> None:
    checks.module_equals(MultilabelKD(2.5), kd(2.5))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"MultilabelKD\.temperature"):
        MultilabelKD(temperature)


def test_unknown_labels_do_not_matter() -> None:
    s, t = torch.randn(3, 4), torch.randn(3, 4)
    known, unknown = (torch.full((3, 4), x, dtype=torch.int8) for x in (1, -1))
    found = [
        MultilabelKD()(checks.as_output(s), checks.as_output(t), checks.batch_with(y))
        for y in (known, unknown)
    ]
    assert found[0] == found[1]
    assert np.isfinite(found[0].item())
