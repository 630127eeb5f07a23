"""What every distillation term must do, whichever file it is in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.losses import DistillationLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput
from tests.builders import make_batch, make_output
from tests.shelves import build, concrete

LOSSES = pytest.mark.parametrize("cls", concrete("losses"))
ROWS, CLASSES = 6, 4


def outputs() -> tuple[ModelOutput, ModelOutput, Batch]:
    student, teacher = make_output(ROWS, CLASSES), make_output(ROWS, CLASSES)
    student = _each(student, lambda x: x.clone().requires_grad_())
    batch, in_target = make_batch(("image", "text"), ROWS), torch.arange(ROWS) % 2 == 1
    batch["target"][in_target] = UNLABELLED
    return student, teacher, {**batch, "in_target_domain": in_target}  # type: ignore[typeddict-item]


def make_loss(cls: Any) -> DistillationLoss:
    """Built by the types of its arguments, and adapted to what `outputs` gives."""
    student, teacher, _ = outputs()
    loss = build(cls)
    loss.adapt(*(shapes_at(o, names) for o, names in sides(loss, student, teacher)))
    loss.begin_step(step=500, epoch=1)  # in the first step, what grows has not begun
    return loss


def sides(loss: DistillationLoss, student: ModelOutput, teacher: ModelOutput) -> Any:
    return [(student, loss.student_layers), (teacher, loss.teacher_layers)]


def shapes_at(output: ModelOutput, names: tuple[str, ...]) -> Any:
    return tuple(tuple(output.at(name).shape[1:]) for name in names)


def _each(output: ModelOutput, change: Any) -> ModelOutput:
    features = {m: change(x) for m, x in output.features.items()}
    layers = {path: change(x) for path, x in output.layers.items()}
    logits, embedding = change(output.logits), change(output.embedding)
    return replace(output, logits=logits, embedding=embedding, features=features, layers=layers)


def _tensors(output: ModelOutput) -> list[Tensor]:
    assert output.embedding is not None
    return [output.logits, output.embedding, *output.features.values(), *output.layers.values()]


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_is_a_finite_scalar_with_a_gradient(cls: Any, dtype: torch.dtype) -> None:
    student, teacher, batch = outputs()
    loss = make_loss(cls).to(dtype)
    student, teacher = (_each(o, lambda x: x.detach().to(dtype).requires_grad_()) for o in (student, teacher))
    value = loss(student, teacher, batch)
    value.backward()
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    grads = [x.grad for x in _tensors(student) if x.grad is not None]
    assert any(g.abs().max() > 0 for g in grads)
    assert all(g.isfinite().all() for g in grads)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert all(x.grad is None for x in _tensors(teacher))


@LOSSES
def test_order_of_the_batch_does_not_matter(cls: Any) -> None:
    student, teacher, batch = outputs()
    loss, order = make_loss(cls).eval(), torch.randperm(ROWS)
    permuted: Batch = {
        **batch,  # type: ignore[typeddict-item]
        "present": {m: p[order] for m, p in batch["present"].items()},
        "target": batch["target"][order],
        "sample_id": batch["sample_id"][order],
        "in_target_domain": batch["in_target_domain"][order],
    }
    value = loss(student, teacher, batch)
    moved = loss(_each(student, lambda x: x[order]), _each(teacher, lambda x: x[order]), permuted)
    torch.testing.assert_close(moved, value)


@LOSSES
def test_state_dict_round_trip(cls: Any) -> None:
    student, teacher, batch = outputs()
    loss = make_loss(cls)
    loss(student, teacher, batch)
    twin = build(cls)
    twin.load_state_dict(loss.state_dict(), strict=True)
    assert torch.equal(twin(student, teacher, batch), loss(student, teacher, batch))
