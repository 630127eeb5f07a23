"""What every task must do, whichever file it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_distill.structures import UNLABELLED
from tests.shelves import build, concrete

TASKS = pytest.mark.parametrize("cls", concrete("tasks"))


@TASKS
def test_loss_is_a_finite_scalar_with_a_gradient(cls: Any) -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    value = build(cls).loss(logits, torch.tensor([0, 1, UNLABELLED, 2, 2]))
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    assert (logits.grad[2] == 0).all()


@TASKS
def test_nothing_labelled_is_0_with_a_gradient_of_0(cls: Any) -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    value = build(cls).loss(logits, torch.full((4,), UNLABELLED))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@TASKS
def test_metrics_are_fresh_each_time(cls: Any) -> None:
    task = build(cls)
    first, second = task.metrics(3), task.metrics(3)
    assert first is not second
    first.update(torch.randn(8, 3), torch.arange(8) % 3)
    assert all(value.isfinite() for value in first.compute().values())
    assert not any(metric.update_called for metric in second.values())
