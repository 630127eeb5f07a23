"""OGM-GE against 2203.15332, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import OGMGE
from lightning_distill.gradient_balancing.ogm_ge import modulation
from tests.builders import same_bits
from tests.gradient_balancing.parts import CLASSES, ROWS, Student, inputs_of, take_step, view_of
from tests.verification import compared

SCORE = st.floats(0.01, 1.0)


def paper(s_u: float, s_v: float, alpha: float) -> float:
    """k of modality u, equation 10: held back where its discrepancy ratio is above 1."""
    rho = s_u / s_v
    return float(1 - np.tanh(alpha * rho)) if rho > 1 else 1.0


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(SCORE, SCORE, st.floats(0, 3))
def test_two_modalities_are_the_papers(s_u: float, s_v: float, alpha: float) -> None:
    scores = torch.tensor([s_u, s_v], dtype=torch.float64)
    k = modulation(scores, torch.tensor([True, True]), alpha)
    compared(OGMGE, k, [paper(s_u, s_v, alpha), paper(s_v, s_u, alpha)], atol=1e-12)


@given(st.lists(SCORE, min_size=2, max_size=5), st.floats(0.1, 3), st.booleans())
def test_laws_of_any_number_of_modalities(scores: list[float], alpha: float, continuous: bool) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    k = modulation(s, torch.ones(len(s), dtype=torch.bool), alpha, continuous)
    assert ((k >= 0) & (k <= 1)).all()
    assert k[s.argmin()] == 1
    assert (k[s.argsort(descending=True)].diff() >= -1e-12).all(), "the further ahead, the more held back"
    torch.testing.assert_close(modulation(2 * s, s > 0, alpha, continuous), k)  # of ratios only


def test_the_papers_form_jumps_and_the_continuous_does_not() -> None:
    there = torch.tensor([True, True])
    just_ahead = torch.tensor([0.5 + 1e-9, 0.5], dtype=torch.float64)
    assert modulation(just_ahead, there, 0.5)[0].item() == pytest.approx(1 - np.tanh(0.5), abs=1e-6)
    assert modulation(just_ahead, there, 0.5, continuous=True)[0].item() == pytest.approx(1, abs=1e-6)
    twice = torch.tensor([0.8, 0.4], dtype=torch.float64)
    assert modulation(twice, there, 0.5, continuous=True)[0].item() == pytest.approx(1 - np.tanh(0.5))


def test_one_that_is_not_there_is_not_among_the_others() -> None:
    scores, there = torch.tensor([0.6, 0.3, 9.0]), torch.tensor([True, True, False])
    assert modulation(scores, there, 0.4).tolist() == pytest.approx([paper(0.6, 0.3, 0.4), 1.0, 1.0])
    assert modulation(scores, torch.tensor([True, False, False]), 0.4).tolist() == [1.0, 1.0, 1.0]


def setting() -> tuple[Any, Any, Any]:
    torch.manual_seed(2)
    return (
        Student().double(),
        {m: x.double() for m, x in inputs_of(("a", "b")).items()},
        torch.arange(ROWS) % CLASSES,
    )


def test_scales_every_tensor_of_the_encoders_and_nothing_else() -> None:
    student, inputs, target = setting()
    with torch.no_grad():  # head that knows the labels from "a" only
        view = view_of(student, inputs, target)
        scores = {m: softmax(view.answer_from((m,)).numpy())[np.arange(ROWS), target].mean() for m in "ab"}
    done = take_step(OGMGE(0.8, noise=False), student, view_of(student, inputs, target))
    k = {"a": paper(scores["a"], scores["b"], 0.8), "b": paper(scores["b"], scores["a"], 0.8)}
    assert min(k.values()) < 0.9
    for m in "ab":
        compared(OGMGE, done.told[f"modulation/{m}"], k[m], atol=1e-9)
        assert {old.ndim for old, _ in done.of(m)} == ({1, 2, 3} if m == "b" else {1, 2})
        for old, new in done.of(m):
            torch.testing.assert_close(new, old * k[m], rtol=1e-9, atol=0)
    assert all(same_bits(g, done.after[n]) for n, g in done.before.items() if n.startswith("head."))


def test_unlabelled_and_absent_samples_have_no_score() -> None:
    student, inputs, target = setting()
    present = {"a": torch.arange(ROWS) != 4, "b": torch.arange(ROWS) > 2}
    target[7] = -100
    with torch.no_grad():
        view = view_of(student, inputs, target, present)
        rows = {m: (present[m] & view.labelled).numpy() for m in "ab"}
        p = {m: softmax(view.answer_from((m,)).numpy())[np.arange(ROWS), target.clamp(min=0)] for m in "ab"}
    done = take_step(OGMGE(0.8, noise=False), student, view_of(student, inputs, target, present))
    for m in "ab":
        assert done.told[f"score/{m}"].item() == pytest.approx(p[m][rows[m]].mean(), rel=1e-9)


def test_alpha_0_without_noise_changes_nothing() -> None:
    student, inputs, target = setting()
    done = take_step(OGMGE(0.0, noise=False), student, view_of(student, inputs, target))
    assert all(same_bits(g, done.after[name]) for name, g in done.before.items())


def test_noise_is_as_large_as_the_gradient_varies() -> None:
    """Over many steps: mean 0, standard deviation that of the gradient's entries, entry by entry."""
    student, inputs, target = setting()
    noise, spread = [], 0.0
    for step in range(200):
        done = take_step(OGMGE(0.0), student, view_of(student, inputs, target, step=step))
        old, new = done.of("a")[0]
        noise.append((new - old).numpy())
        spread = float(np.std(old.numpy()))
    drawn = np.stack(noise)
    assert drawn.std() == pytest.approx(spread + 1e-8, rel=0.05)
    assert abs(drawn.mean()) < 5 * spread / np.sqrt(drawn.size)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 1])[0, 1]) < 0.3
    assert all(same_bits(g, done.after[n]) for n, g in done.before.items() if n.startswith("head."))


def test_noise_is_a_function_of_seed_and_step() -> None:
    student, inputs, target = setting()

    def drawn(step: int, seed: int) -> Any:
        done = take_step(OGMGE(0.0), student, view_of(student, inputs, target, step=step, seed=seed))
        return torch.cat([(new - old).flatten() for old, new in done.of("a")])

    assert torch.equal(drawn(1, 0), drawn(1, 0))
    assert not torch.allclose(drawn(1, 0), drawn(2, 0))
    assert not torch.allclose(drawn(1, 0), drawn(1, 1))


@pytest.mark.parametrize(("epoch", "acts"), [(0, False), (1, True), (2, True), (3, False)])
def test_only_in_its_epochs(epoch: int, acts: bool) -> None:
    student, inputs, target = setting()
    balancer = OGMGE(0.8, first_epoch=1, last_epoch=2)
    done = take_step(balancer, student, view_of(student, inputs, target, epoch=epoch))
    assert acts != all(same_bits(g, done.after[name]) for name, g in done.before.items())


def test_scores_of_accumulated_batches_count_together() -> None:
    student, inputs, target = setting()
    whole = take_step(OGMGE(0.8), student, view_of(student, inputs, target)).told
    balancer = OGMGE(0.8)
    half = {m: x[:5] for m, x in inputs.items()}
    balancer.terms({"task": torch.zeros(())}, view_of(student, half, target[:5]))
    rest = {m: x[5:] for m, x in inputs.items()}
    parts = take_step(balancer, student, view_of(student, rest, target[5:])).told
    assert {n: v.item() for n, v in parts.items()} == pytest.approx({n: v.item() for n, v in whole.items()})


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"alpha": float("nan")}])
def test_alpha_is_checked(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"OGMGE\.alpha"):
        OGMGE(**wrong)


def test_epochs_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"OGMGE\.first_epoch, last_epoch: found \(3, 2\)"):
        OGMGE(0.5, first_epoch=3, last_epoch=2)
