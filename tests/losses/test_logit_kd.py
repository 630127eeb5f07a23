"""Hinton's KD against the paper, written in float64 NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses import LogitKD, logit_kd
from lightning_distill.module import DistillationModule
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher
from tests.builders import make_batch, make_model
from tests.verification import compared, gradchecked

Array = NDArray[np.float64]


def soft_targets(logits: Array, temperature: float) -> Array:
    """q_i = exp(z_i / T) / sum_j exp(z_j / T): equation 1 of 1503.02531."""
    scaled = logits / temperature
    e = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference(student: Array, teacher: Array, temperature: float) -> float:
    """T^2 times the mean over samples of sum_i p_i log(p_i / q_i); p the teacher's, q the student's."""
    p, q = soft_targets(teacher, temperature), soft_targets(student, temperature)
    return float(temperature**2 * np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1)))


def cross_entropy(logits: Array, target: NDArray[np.int64]) -> float:
    """Mean of -log softmax(z)_y over the rows that have a label; 0 without any."""
    rows = np.flatnonzero(target >= 0)
    if not len(rows):
        return 0.0
    return float(-np.mean(np.log(soft_targets(logits[rows], 1.0)[np.arange(len(rows)), target[rows]])))


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Array:
    return scale * np.random.default_rng(seed).normal(size=shape)


def kd(student: Array, teacher: Array, temperature: float, dtype: torch.dtype = torch.float64) -> float:
    s, t = torch.from_numpy(student).to(dtype), torch.from_numpy(teacher).to(dtype)
    return float(logit_kd(s, t, temperature))


SHAPES = [(5, 7), (1, 3), (4, 2), (1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_equals_the_paper(shape: tuple[int, int], temperature: float) -> None:
    student, teacher = draw(*shape), draw(*shape, seed=1)
    expected = reference(student, teacher, temperature)
    compared(LogitKD, kd(student, teacher, temperature), expected, rtol=1e-12)
    rounding = 1e-6 * temperature**2  # of log-probabilities around 1, before T^2
    single = kd(student, teacher, temperature, torch.float32)
    compared(LogitKD, single, expected, rtol=1e-6, atol=rounding, dtype=torch.float32)


logits = arrays(np.float64, (3, 4), elements=st.floats(-30, 30, width=32))


@given(
    logits,
    logits,
    st.floats(0.25, 50),
    st.floats(-100, 100),
    st.permutations(range(3)),
    st.permutations(range(4)),
)
def test_invariances(
    student: Array, teacher: Array, temperature: float, shift: float, rows: list[int], classes: list[int]
) -> None:
    value = kd(student, teacher, temperature)
    assert value >= -1e-9
    same = pytest.approx(value, rel=1e-9, abs=1e-9)
    assert reference(student, teacher, temperature) == same
    assert kd(student + shift, teacher, temperature) == same
    assert kd(student, teacher - shift, temperature) == same
    assert kd(student[rows], teacher[rows], temperature) == same
    assert kd(student[:, classes], teacher[:, classes], temperature) == same
    assert kd(student * 3, teacher * 3, temperature * 3) == pytest.approx(9 * value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_is_zero_when_the_student_is_the_teacher(dtype: torch.dtype) -> None:
    z = draw(6, 5)
    assert kd(z, z, 4.0, dtype) == pytest.approx(0, abs=1e-6)
    student = torch.from_numpy(z).to(dtype).requires_grad_()
    logit_kd(student, student.detach() + 3, 4.0).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < (5e-2 if dtype == torch.bfloat16 else 1e-5)


def test_hot_limit_is_half_the_squared_distance_of_centred_logits() -> None:
    """For T to infinity, T^2 KL -> 1/(2N) |(z - mean z) - (v - mean v)|^2 and its gradient (z - v) / N."""
    z, v = draw(3, 5), draw(3, 5, seed=1)
    z, v = z - z.mean(axis=1, keepdims=True), v - v.mean(axis=1, keepdims=True)
    student = torch.from_numpy(z).requires_grad_()
    value = logit_kd(student, torch.from_numpy(v), 1e4)
    value.backward()
    assert value.item() == pytest.approx(np.mean(np.sum((z - v) ** 2, axis=1)) / (2 * 5), rel=1e-3)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), (z - v) / 5 / 3, rtol=5e-3, atol=1e-4)


def gradient(student: Array, teacher: Array, temperature: float) -> Array:
    z = torch.from_numpy(student).requires_grad_()
    logit_kd(z, torch.from_numpy(teacher), temperature).backward()
    assert z.grad is not None
    return z.grad.numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 8.0])
def test_gradient_is_that_of_the_paper(temperature: float) -> None:
    """Equation 2 times T^2: dC/dz = T (q - p), averaged over the batch."""
    student, teacher = draw(4, 6), draw(4, 6, seed=1)
    expected = temperature * (soft_targets(student, temperature) - soft_targets(teacher, temperature)) / 4
    compared(LogitKD, gradient(student, teacher, temperature), expected, rtol=1e-9, atol=1e-12)


def test_size_of_the_gradient_hardly_depends_on_temperature() -> None:
    student, teacher = draw(16, 10, scale=1.0), draw(16, 10, seed=1, scale=1.0)
    norms = [np.linalg.norm(gradient(student, teacher, t)) for t in (2.0, 4.0, 8.0, 20.0)]
    assert max(norms) / min(norms) < 1.2  # 100 without T^2


def test_teacher_gets_no_gradient() -> None:
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    logit_kd(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.row("G7")
@pytest.mark.parametrize("temperature", [0.7, 4.0])
def test_gradcheck(temperature: float) -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    gradchecked(LogitKD, lambda s: logit_kd(s, teacher, temperature), student)


@pytest.mark.row("G7")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("flip", [False, True])
def test_extreme_logits_stay_finite(dtype: torch.dtype, temperature: float, flip: bool) -> None:
    student = torch.tensor(
        [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True
    )
    teacher = (-student if flip else student.roll(1, dims=0)).detach()
    value = logit_kd(student, teacher, temperature)
    value.backward()
    assert value.dtype == dtype
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    rounding = 2e-2 if dtype == torch.bfloat16 else 1e-5
    p, q = student.detach().double() / temperature, teacher.double() / temperature
    exact = (q.softmax(1) * (q.log_softmax(1) - p.log_softmax(1))).sum(1).mean() * temperature**2
    assert value.item() == pytest.approx(exact.item(), rel=rounding)


def as_output(logits: Tensor) -> ModelOutput:
    return ModelOutput(logits, logits, {})


def test_module_equals_function() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    loss = LogitKD(temperature=2.5)
    assert torch.equal(
        loss(as_output(student), as_output(teacher), make_batch()), logit_kd(student, teacher, 2.5)
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"LogitKD\.temperature"):
        LogitKD(temperature)


# -- the whole objective, (1 - alpha) CE + alpha T^2 KL, as the module adds it up ---------------------------


def objective(
    alpha: float, target: list[int], teacher_logits: Array | None = None
) -> tuple[float, float, Tensor]:
    """The module's loss, the paper's, and the gradient on the student's logits."""
    student, teacher = draw(4, 3), draw(4, 3, seed=1) if teacher_logits is None else teacher_logits
    module = DistillationModule(
        make_model(), FrozenTeacher(make_model()), {"kd": LogitKD(4.0)}, {"task": 1 - alpha, "kd": alpha}
    )
    batch: Batch = {**make_batch(size=4), "target": torch.tensor(target)}  # type: ignore[typeddict-item]
    z = torch.from_numpy(student).requires_grad_()
    total = module.total(module.raw_terms(as_output(z), as_output(torch.from_numpy(teacher)), batch))
    total.backward()
    hard, soft = cross_entropy(student, np.array(target)), reference(student, teacher, 4.0)
    expected = (1 - alpha) * hard + (alpha * soft if alpha else 0.0)
    assert z.grad is not None
    return total.item(), expected, z.grad


U = UNLABELLED
LABELS: list[Any] = [
    pytest.param([0, 1, 2, 0], id="all"),
    pytest.param([0, U, U, 2], id="some"),
    pytest.param([U, U, U, U], id="none"),
]


@pytest.mark.parametrize("target", LABELS)
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.3, 1.0])
def test_objective_is_right_for_any_alpha_and_labels(alpha: float, target: list[int]) -> None:
    value, expected, grad = objective(alpha, target)
    compared(LogitKD, value, expected, rtol=1e-9, atol=1e-12)
    assert grad.isfinite().all()


def test_alpha_0_leaves_the_teacher_out_and_alpha_1_the_labels() -> None:
    target, nan = [0, 1, U, 0], np.full((4, 3), np.nan)
    assert objective(0.0, target, nan)[0] == pytest.approx(cross_entropy(draw(4, 3), np.array(target)))
    assert objective(1.0, [0, 1, 2, 0])[0] == objective(1.0, [U, U, U, U])[0]


def test_no_label_and_no_teacher_means_no_gradient() -> None:
    value, _, grad = objective(0.0, [U, U, U, U])
    assert value == 0
    assert grad.abs().max() == 0
