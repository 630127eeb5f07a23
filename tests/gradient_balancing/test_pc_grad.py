"""PCGrad against 2001.06782, algorithm 1, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_distill.gradient_balancing import PCGrad
from lightning_distill.gradient_balancing.pc_grad import surgery_weights
from lightning_distill.gradients import gradients_of
from tests.builders import same_bits
from tests.gradient_balancing.parts import CLASSES, ROWS, Student, inputs_of, take_step, view_of
from tests.verification import compared


def paper(grads: Any, order: Any) -> Any:
    """Every gradient in turn, projected onto the normal plane of each other that it conflicts with."""
    parts = []
    for i, others in enumerate(order):
        g = grads[i].copy()
        for j in others:
            if g @ grads[j] < 0:
                g = g - (g @ grads[j]) / (grads[j] @ grads[j]) * grads[j]
        parts.append(g)
    return parts


def some_order(count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation([j for j in range(count) if j != i]) for i in range(count)])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_is_the_papers_algorithm(count: int, seed: int) -> None:
    grads = np.random.default_rng(seed).normal(size=(count, 4))
    order = some_order(count, seed)
    w = surgery_weights(torch.from_numpy(grads @ grads.T), torch.from_numpy(order)).numpy()
    compared(PCGrad, w @ grads, np.sum(paper(grads, order), axis=0), rtol=1e-7, atol=1e-9)


@given(arrays(np.float64, (2, 6), elements=st.floats(-10, 10, allow_subnormal=False)))
def test_two_terms_no_longer_conflict(grads: Any) -> None:
    """What is taken steps along neither of the two backwards."""
    w = surgery_weights(torch.from_numpy(grads @ grads.T), torch.tensor([[1], [0]])).numpy()
    step = w @ grads
    slack = 1e-9 * (np.abs(grads).max() ** 2 + 1) * (1 + np.abs(w).max())
    assert step @ grads[0] >= -slack
    assert step @ grads[1] >= -slack


@given(arrays(np.float64, (3, 6), elements=st.floats(0, 10)), st.integers(0, 99))
def test_without_conflict_nothing_changes(grads: Any, seed: int) -> None:
    w = surgery_weights(torch.from_numpy(grads @ grads.T), torch.from_numpy(some_order(3, seed)))
    assert w.tolist() == [1.0, 1.0, 1.0]


def setting() -> tuple[Any, Any, Any]:
    torch.manual_seed(4)
    inputs = {m: x.double() for m, x in inputs_of(("a", "b")).items()}
    return Student().double(), inputs, torch.arange(ROWS) % CLASSES


def test_edits_everything_that_is_trained() -> None:
    student, inputs, target = setting()
    met = set()
    for step in range(6):
        x = {m: torch.roll(v, step, 0) for m, v in inputs.items()}
        done = take_step(PCGrad(), student, view_of(student, x, target * (step % 2), step=step))
        zeros = {n: torch.zeros_like(g) for n, g in done.before.items()}
        flat = [
            torch.cat([(g if g is not None else zeros[n]).flatten() for n, g in grads.items()]).numpy()
            for grads in done.by_term.values()
        ]
        expected = np.sum(paper(np.stack(flat), [[1], [0]]), axis=0)
        after = torch.cat([g.flatten() for g in done.after.values()]).numpy()
        compared(PCGrad, after, expected, rtol=1e-7, atol=1e-9)
        inner = flat[0] @ flat[1]
        assert done.told["conflicts"].item() == (inner < 0)
        met.add(bool(inner < 0))
        if inner >= 0:
            assert all(same_bits(g, done.after[n]) for n, g in done.before.items())
    assert met == {True, False}, "conflict and no conflict were both met"


def test_order_is_a_function_of_seed_and_step() -> None:
    """Three gradients in mutual conflict, where the order matters."""
    grads = torch.tensor([[1.0, 0.0, 0.2], [-0.6, 1.0, 0.0], [-0.5, -0.9, 0.1]], dtype=torch.float64)
    student, inputs, target = setting()

    def edited(step: int, seed: int) -> tuple[float, ...]:
        weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        weight.grad = grads.sum(dim=0)
        balancer = PCGrad()
        balancer.terms({}, view_of(student, inputs, target, seed=seed))
        gradients = gradients_of({"w": weight}, step)
        balancer.balance(gradients, {str(k): [g] for k, g in enumerate(grads)})
        return tuple(weight.grad.tolist())

    assert edited(3, 0) == edited(3, 0)
    assert len({edited(step, 0) for step in range(20)}) > 1
    assert [edited(step, 0) for step in range(20)] != [edited(step, 1) for step in range(20)]
    every = {tuple(np.sum(paper(grads.numpy(), some_order(3, s)), axis=0).round(9)) for s in range(100)}
    assert {tuple(np.round(edited(step, 0), 9)) for step in range(20)} <= every


def test_one_term_is_left_alone() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1.0, -2.0, 3.0])
    assert PCGrad().balance(gradients_of({"w": weight}), {"task": [weight.grad.clone()]}) == {}
    assert weight.grad.tolist() == [1.0, -2.0, 3.0]


def test_a_term_without_any_gradient_counts_nowhere() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    g, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    weight.grad = g + other
    told = PCGrad().balance(gradients_of({"w": weight}), {"a": [g], "b": [other], "c": [None], "d": [0 * g]})
    expected = np.sum(paper(np.array([[1.0, 0.0], [-1.0, 1.0]]), [[1], [0]]), axis=0)
    assert weight.grad.tolist() == pytest.approx(expected)
    assert told["surgery/c"].item() == told["surgery/d"].item() == 1
