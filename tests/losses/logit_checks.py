"""What every loss on logits must pass: gradients, invariances, hard cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.losses import DistillationLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput
from tests.builders import make_batch
from tests.verification import gradchecked

Array = NDArray[np.float64]
Target = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student's logits, teacher's logits, target) -> 0-d tensor."""

SHAPES = [(5, 7), (1, 3), (4, 2), (2, 4), (1, 2)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Array:
    return scale * np.random.default_rng(seed).normal(size=shape)


def draw_target(rows: int, classes: int, unlabelled: tuple[int, ...] = ()) -> Target:
    target = np.random.default_rng(9).integers(0, classes, rows)
    target[list(unlabelled)] = UNLABELLED
    return target


def softmax(z: Array) -> Array:
    """Over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl(p: Array, q: Array) -> float:
    """sum p log(p / q), with 0 log 0 = 0."""
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def value(f: Loss, s: Array, t: Array, y: Target, dtype: torch.dtype = torch.float64) -> float:
    logits = (torch.from_numpy(np.ascontiguousarray(x)).to(dtype) for x in (s, t))
    return f(*logits, torch.from_numpy(y)).item()


def gradient(f: Loss, s: Array, t: Array, y: Target) -> Array:
    z = torch.from_numpy(s).requires_grad_()
    f(z, torch.from_numpy(t), torch.from_numpy(y)).backward()
    assert z.grad is not None
    return z.grad.numpy()


def passes_gradcheck(f: Loss, subject: type, rows: int = 4, classes: int = 4) -> None:
    s, t = torch.from_numpy(draw(rows, classes)), torch.from_numpy(draw(rows, classes, seed=1))
    y = torch.from_numpy(draw_target(rows, classes, (rows - 1,)))
    gradchecked(subject, lambda z: f(z, t, y), s.requires_grad_())


def teacher_gets_no_gradient(f: Loss) -> None:
    s, t = (torch.from_numpy(draw(4, 5, seed=seed)).requires_grad_() for seed in (0, 1))
    f(s, t, torch.tensor([0, 1, UNLABELLED, 3])).backward()
    assert t.grad is None
    assert s.grad is not None
    assert s.grad.abs().max() > 0


def ignores_order(f: Loss) -> None:
    """Rows may be permuted, and so may classes along with the target."""
    s, t, y = draw(6, 5), draw(6, 5, seed=1), draw_target(6, 5, (2,))
    same = pytest.approx(value(f, s, t, y), rel=1e-12)
    rows, classes = np.random.default_rng(3).permutation(6), np.random.default_rng(4).permutation(5)
    assert value(f, s[rows], t[rows], y[rows]) == same
    moved = np.where(y >= 0, np.argsort(classes)[y.clip(0)], y)
    assert value(f, s[:, classes], t[:, classes], moved) == same


def ignores_shift(f: Loss) -> None:
    """A number added to all logits of a row changes no softmax."""
    s, t, y = draw(6, 5), draw(6, 5, seed=1), draw_target(6, 5, (2,))
    shift = draw(6, 1, seed=2, scale=50.0)
    same = pytest.approx(value(f, s, t, y), rel=1e-9)
    assert value(f, s + shift, t, y) == same
    assert value(f, s, t - shift, y) == same


def is_zero_at_the_teacher(f: Loss) -> None:
    z, y = draw(6, 5), draw_target(6, 5, (2,))
    assert value(f, z, z, y) == pytest.approx(0, abs=1e-12)
    assert value(f, z, z, y, torch.float32) == pytest.approx(0, abs=2e-5)
    assert np.abs(gradient(f, z, z, y)).max() < 1e-12


def gradient_hardly_depends_on_temperature(f: Callable[[float], Loss]) -> None:
    """T^2 keeps its size: without it, it would shrink a hundredfold from T = 2 to T = 20."""
    s, t, y = draw(16, 10, scale=1.0), draw(16, 10, seed=1, scale=1.0), draw_target(16, 10)
    norms = [np.linalg.norm(gradient(f(temperature), s, t, y)) for temperature in (2.0, 4.0, 8.0, 20.0)]
    assert max(norms) / min(norms) < 1.3


def _gap(size: float) -> list[list[float]]:
    return [[size, -size, 0.0], [-size, size, size], [0.0, 0.0, size]]


HARD: dict[str, tuple[Any, Any, list[int]]] = {
    "uniform student": (np.zeros((4, 5)), draw(4, 5), [0, 1, UNLABELLED, 4]),
    "constant student": (np.full((4, 5), 5.0), draw(4, 5), [0, 1, UNLABELLED, 4]),
    "uniform teacher": (draw(4, 5), np.zeros((4, 5)), [0, 1, UNLABELLED, 4]),
    "both uniform": (np.zeros((4, 5)), np.zeros((4, 5)), [0, 1, 2, 3]),
    "duplicate rows": (np.repeat(draw(1, 5), 4, 0), np.repeat(draw(1, 5, seed=1), 4, 0), [1, 1, 1, 1]),
    "gap 1e3": (_gap(1e3), np.negative(_gap(1e3)), [0, 1, 2]),
    "gap 1e3 at another class": (_gap(1e3), np.roll(_gap(1e3), 1, axis=0), [2, UNLABELLED, 0]),
    "batch of one": (draw(1, 5), draw(1, 5, seed=1), [2]),
    "one row, two classes": (draw(1, 2), draw(1, 2, seed=1), [1]),
    "two rows, two classes": (draw(2, 2), draw(2, 2, seed=1), [1, UNLABELLED]),
    "no labels": (draw(3, 4), draw(3, 4, seed=1), [UNLABELLED] * 3),
}


def stays_finite(f: Loss) -> None:
    """Value and gradient, in half and single precision, close to what double precision finds."""
    for name, (student, teacher, target) in HARD.items():
        y = torch.tensor(target)
        for dtype in DTYPES:
            s = torch.tensor(np.array(student), dtype=dtype, requires_grad=True)
            t = torch.tensor(np.array(teacher), dtype=dtype)
            found = f(s, t, y)
            found.backward()
            assert s.grad is not None
            assert found.dtype == dtype, name
            assert found.isfinite(), (name, dtype)
            assert s.grad.isfinite().all(), (name, dtype)
            exact = f(s.detach().double(), t.double(), y).item()
            rounding = 1e-4 if dtype == torch.float32 else 2e-2
            assert found.item() == pytest.approx(exact, rel=rounding, abs=rounding), (name, dtype)


def as_output(logits: Tensor) -> ModelOutput:
    return ModelOutput(logits)


def batch_with(target: Tensor) -> Batch:
    return {**make_batch(size=len(target)), "target": target}  # type: ignore[typeddict-item]


def module_equals(loss: DistillationLoss, f: Loss) -> None:
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    y = torch.tensor([0, 1, UNLABELLED, 2, 3, 1])
    assert torch.equal(loss(as_output(s), as_output(t), batch_with(y)), f(s, t, y))
