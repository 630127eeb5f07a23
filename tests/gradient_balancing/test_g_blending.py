"""G-Blend against 1905.12681, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import GBlending
from lightning_distill.gradient_balancing.g_blending import blend
from tests.gradient_balancing.parts import (
    CLASSES,
    ROWS,
    Student,
    average_alone,
    inputs_of,
    take_step,
    view_of,
)
from tests.verification import compared

LOSSES = st.lists(st.tuples(*[st.floats(0, 5)] * 4), min_size=2, max_size=4)


def test_an_example_by_hand() -> None:
    """G = (0.3, 0.2), growth of the gap = (0.1, 0.2): G / O^2 = (30, 5)."""
    before = {"train": torch.tensor([1.0, 1.0]), "validation": torch.tensor([1.2, 1.1])}
    train, validation = torch.tensor([0.6, 0.6]), torch.tensor([0.9, 0.9])
    w = blend(train, validation, before["train"], before["validation"], torch.ones(2) / 2)
    compared(GBlending, w, [30 / 35, 5 / 35], rtol=1e-4, by="an example by hand")


def test_weights_minimise_the_papers_objective() -> None:
    """Of (sum w_k O_k)^2 with independent O_k, sum w_k G_k fixed: by search, w is proportional to G / O^2."""
    gain, growth = np.array([0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.05])
    rng = np.random.default_rng(0)
    tries = rng.dirichlet(np.ones(3), size=200_000)
    ratio = (tries**2 @ growth**2) / (tries @ gain) ** 2
    before = torch.ones(3, dtype=torch.float64)
    validation = before - torch.from_numpy(gain)
    train = validation - torch.from_numpy(growth)
    w = blend(train, validation, before, before, before / 3)
    compared(GBlending, w, tries[ratio.argmin()], rtol=1e-7, atol=0.02, by="the paper's objective, by search")


@given(LOSSES)
def test_weights_are_shares(losses: list[tuple[float, ...]]) -> None:
    table = torch.tensor(losses, dtype=torch.float64)
    old = torch.full((len(table),), 1 / len(table), dtype=torch.float64)
    w = blend(*table.unbind(dim=1), old)
    assert (w >= 0).all()
    assert w.sum().item() == pytest.approx(1, abs=1e-9)


def test_a_loss_that_rose_has_no_weight_and_where_all_rose_the_old_stay() -> None:
    old, before = torch.tensor([0.7, 0.3]), torch.tensor([1.0, 1.0])
    assert blend(before - 0.5, torch.tensor([1.1, 0.9]), before, before, old).tolist() == [0.0, 1.0]
    assert torch.equal(blend(before - 0.5, before + 0.1, before, before, old), old)


def setting() -> tuple[Any, Any, Any]:
    torch.manual_seed(7)
    inputs = {m: x.double() for m, x in inputs_of(("a", "b")).items()}
    return Student().double(), inputs, torch.arange(ROWS) % CLASSES


def losses_of(student: Any, inputs: Any, target: Any) -> Any:
    """Of the whole, and of each modality, in nats."""
    with torch.no_grad():
        view = view_of(student, inputs, target)
        found = []
        for some in (("a", "b"), ("a",), ("b",)):
            z = view.answer_from(some).numpy()
            log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
            found.append(-log_p[np.arange(len(z)), view.target.numpy()].mean())
    return np.array(found)


def look(balancer: Any, student: Any, inputs: Any, target: Any, training: bool) -> dict[str, float]:
    balancer.train(training)
    with torch.no_grad():
        given_terms = {"task": torch.tensor(2.0), "kd": torch.tensor(3.0)}
        terms = balancer.terms(given_terms, view_of(student, inputs, target))
    return {name: float(value) for name, value in terms.items()}


def learn(student: Any, scale: float) -> None:
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(scale)


def test_weights_start_equal() -> None:
    student, inputs, target = setting()
    found = look(GBlending(), student, inputs, target, True)
    expected = losses_of(student, inputs, target) / 3
    assert found == pytest.approx(
        {"task": 2 / 3, "kd": 1.0, "unimodal/a": expected[1], "unimodal/b": expected[2]}, rel=1e-5
    )


def test_weights_are_measured_from_one_epoch_to_the_next() -> None:
    """Validation of other samples than training; sanity and mid-epoch validations do not count."""
    student, inputs, target = setting()
    other = {m: x.flip(0) + 1.0 for m, x in inputs.items()}
    balancer, measured = GBlending(), []
    look(balancer, student, {m: 9 * x for m, x in other.items()}, target, False)
    for scale in (3.0, 0.7):
        learn(student, scale)
        look(balancer, student, {m: x[:4] for m, x in inputs.items()}, target[:4], True)
        look(balancer, student, {m: 9 * x for m, x in other.items()}, target, False)
        look(balancer, student, {m: x[4:] for m, x in inputs.items()}, target[4:], True)
        look(balancer, student, {m: x[:6] for m, x in other.items()}, target[:6], False)
        look(balancer, student, {m: x[6:] for m, x in other.items()}, target[6:], False)
        measured.append((losses_of(student, inputs, target), losses_of(student, other, target)))
        balancer.end_epoch(average_alone)
    (t_0, v_0), (t_1, v_1) = measured
    value = np.maximum(v_0 - v_1, 0) / np.maximum(((v_1 - t_1) - (v_0 - t_0)) ** 2, 1e-8)
    w = value / value.sum()
    assert w.min() > 0.1
    assert np.abs(w - 1 / 3).max() > 0.05
    found = look(balancer, student, inputs, target, True)
    expected = {"task": 2 * w[0], "kd": 3 * w[0], "unimodal/a": w[1] * t_1[1], "unimodal/b": w[2] * t_1[2]}
    assert found == pytest.approx(expected, rel=1e-4)
    told = take_step(balancer.train(), student, view_of(student, inputs, target)).told
    shown = {"weight/whole": w[0], "weight/a": w[1], "weight/b": w[2]}
    assert {name: float(value) for name, value in told.items()} == pytest.approx(shown, rel=1e-4)


@pytest.mark.parametrize("super_epoch", [1, 2])
def test_weights_move_after_every_super_epoch(super_epoch: int) -> None:
    student, inputs, target = setting()
    balancer, moved = GBlending(super_epoch), []
    last = look(balancer, student, inputs, target, False)["task"]
    for _ in range(5):
        learn(student, 0.8)
        look(balancer, student, inputs, target, True)
        look(balancer, student, {m: x + 0.1 for m, x in inputs.items()}, target, False)
        balancer.end_epoch(average_alone)
        now = look(balancer, student, inputs, target, False)["task"]
        moved.append(now != last)
        last = now
    assert moved == (
        [False, True, True, True, True] if super_epoch == 1 else [False, False, True, False, True]
    )


def test_without_validation_weights_stay() -> None:
    student, inputs, target = setting()
    balancer = GBlending()
    for _ in range(3):
        learn(student, 0.8)
        found = look(balancer, student, inputs, target, True)
        balancer.end_epoch(average_alone)
    assert found["task"] == pytest.approx(2 / 3)


def test_super_epoch_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"GBlending\.super_epoch: found 0"):
        GBlending(0)
