"""PMR against 2211.07089, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import PMR
from lightning_distill.gradient_balancing.pmr import stimulation
from lightning_distill.gradients import gradients_of
from tests.gradient_balancing.parts import CLASSES, ROWS, WIDTH, Student, average_alone, inputs_of, view_of
from tests.verification import compared

SCORE = st.floats(0.01, 1.0)


@given(SCORE, SCORE)
def test_two_modalities_have_the_papers_coefficients(s_0: float, s_1: float) -> None:
    """Equation 11, and the opposite ones of equation 13."""
    rho = s_0 / s_1
    beta = np.clip(1 / rho - 1, 0, 1) if rho < 1 else 0.0
    gamma = np.clip(rho - 1, 0, 1) if rho >= 1 else 0.0
    behind, ahead = stimulation(torch.tensor([s_0, s_1], dtype=torch.float64), torch.tensor([True, True]))
    compared(PMR, behind, [beta, gamma], atol=1e-12)
    compared(PMR, ahead, [gamma, beta], atol=1e-12)


def test_one_that_is_not_there_is_not_among_the_others() -> None:
    behind, ahead = stimulation(torch.tensor([0.6, 0.5, 0.0]), torch.tensor([True, True, False]))
    assert behind.tolist() == pytest.approx([0, 0.2, 0])
    assert ahead.tolist() == pytest.approx([0.2, 0, 0])
    for nobody in (torch.tensor([False, False]), torch.tensor([True, False])):
        assert [x.tolist() for x in stimulation(torch.tensor([0.5, 0.2]), nobody)] == [[0.0, 0.0], [0.0, 0.0]]


def setting() -> tuple[Any, Any, Any]:
    torch.manual_seed(6)
    inputs = {m: x.double() for m, x in inputs_of(("a", "b")).items()}
    return Student().double(), inputs, torch.arange(ROWS) % CLASSES


def class_means(z: Any, y: Any) -> Any:
    return np.stack([z[y == k].mean(axis=0) for k in range(CLASSES)])


def distribution(z: Any, c: Any) -> Any:
    """Equation 7."""
    d = np.sqrt(((z[:, None, :] - c[None, :, :]) ** 2).sum(axis=2))
    e = np.exp(-(d - d.min(axis=1, keepdims=True)))
    return e / e.sum(axis=1, keepdims=True)


def given_terms() -> dict[str, torch.Tensor]:
    return {"task": torch.tensor(1.0, dtype=torch.float64)}


def features_of(view: Any) -> dict[str, Any]:
    return {m: f.detach().numpy() for m, f in view.features.items()}


def test_terms_are_the_papers_over_three_epochs() -> None:
    student, inputs, target = setting()
    balancer, y = PMR(alpha=1.5, mu=0.03, momentum=0.3, entropy_epochs=2), target.numpy()
    prototypes: dict[str, Any] = {}
    for epoch in range(3):
        seen = []
        for i in range(2):
            x = {m: torch.roll(v, i + epoch, 1) * (3 if m == "a" else 1) for m, v in inputs.items()}
            view = view_of(student, x, target, epoch=epoch)
            z = features_of(view)
            seen.append(z)
            found = {n: v.item() for n, v in balancer.terms(given_terms(), view).items()}
            if not prototypes:
                assert sum(abs(v) for n, v in found.items() if n != "task") == 0
                continue
            p = {m: distribution(z[m], prototypes[m]) for m in "ab"}
            s = {m: p[m][np.arange(ROWS), y].sum() for m in "ab"}
            rho = s["a"] / s["b"]
            beta = np.clip(1 / rho - 1, 0, 1) if rho < 1 else 0.0
            gamma = np.clip(rho - 1, 0, 1) if rho >= 1 else 0.0
            assert max(beta, gamma) > 0
            told = balancer.balance(gradients_of({}), {})
            shown = {"score/a": s["a"] / ROWS, "score/b": s["b"] / ROWS, "behind/a": beta, "behind/b": gamma}
            assert {n: v.item() for n, v in told.items()} == pytest.approx(shown, rel=1e-4, abs=1e-6)
            for m, slow, fast in (("a", beta, gamma), ("b", gamma, beta)):
                cross = -np.log(p[m][np.arange(ROWS), y]).mean()
                assert found[f"prototype/{m}"] == pytest.approx(1.5 * slow * cross, rel=1e-4, abs=1e-6)
                if epoch < 2:
                    entropy = -(p[m] * np.log(p[m])).sum(axis=1).mean()
                    assert found[f"entropy/{m}"] == pytest.approx(-0.03 * fast * entropy, rel=1e-4, abs=1e-6)
            assert ("entropy/a" in found) == (epoch < 2)
        balancer.end_epoch(average_alone)
        for m in "ab":
            new = class_means(np.concatenate([z[m] for z in seen]), np.concatenate([y, y]))
            prototypes[m] = 0.3 * prototypes[m] + 0.7 * new if m in prototypes else new
            found_at = balancer.prototypes.at(m, torch.zeros(CLASSES, WIDTH)).numpy()
            np.testing.assert_allclose(found_at, prototypes[m], rtol=1e-4, atol=1e-6)


def test_stimulates_the_encoder_that_is_behind_only() -> None:
    student, inputs, target = setting()
    balancer = PMR(mu=0.0)
    with torch.no_grad():  # "a" tells the classes apart, "b" does not
        inputs["a"] = torch.nn.functional.one_hot(target, 8).double() * 50
        student.encoders["a"][0].weight.mul_(20)
    balancer.terms(given_terms(), view_of(student, inputs, target))
    balancer.end_epoch(average_alone)
    terms = balancer.terms(given_terms(), view_of(student, inputs, target, epoch=1))
    assert terms["prototype/a"].item() == 0 < terms["prototype/b"].item()
    torch.stack([t for n, t in terms.items() if n != "task"]).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in student.encoders["a"].parameters())
    assert any(p.grad.any() for p in student.encoders["b"].parameters())
    assert all(p.grad is None for p in student.head.parameters())


def test_a_class_that_was_not_seen_counts_nowhere() -> None:
    """Neither is it one to be mistaken for, nor do its samples count."""
    student, inputs, target = setting()
    balancer, some = PMR(entropy_epochs=0), target != 2
    balancer.terms(given_terms(), view_of(student, {m: x[some] for m, x in inputs.items()}, target[some]))
    balancer.end_epoch(average_alone)
    view = view_of(student, inputs, target, epoch=1)
    found, z, y = balancer.terms(given_terms(), view), features_of(view), target.numpy()
    known = {m: class_means(z[m], y)[:2] for m in "ab"}
    p = {m: distribution(z[m], known[m])[some.numpy()] for m in "ab"}
    own = {m: p[m][np.arange(len(p[m])), y[some.numpy()]] for m in "ab"}
    slow = min("ab", key=lambda m: own[m].mean())
    ratio = max(own["a"].mean(), own["b"].mean()) / own[slow].mean()
    expected = np.clip(ratio - 1, 0, 1) * -np.log(own[slow]).mean()
    assert float(found[f"prototype/{slow}"].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    before = balancer.prototypes.at("a", torch.zeros(CLASSES, WIDTH)).clone()
    balancer.end_epoch(average_alone)
    assert balancer.known.at("a", torch.zeros(CLASSES)).tolist() == [1, 1, 1]
    assert not before[2].any()


def test_absent_samples_do_not_move_prototypes() -> None:
    student, inputs, target = setting()
    present = {"a": torch.arange(ROWS) > 5, "b": torch.ones(ROWS, dtype=torch.bool)}
    balancer, view = PMR(), view_of(student, inputs, target, present)
    balancer.terms(given_terms(), view)
    balancer.end_epoch(average_alone)
    z = features_of(view)["a"]
    found = balancer.prototypes.at("a", torch.zeros(CLASSES, WIDTH)).numpy()
    np.testing.assert_allclose(found, class_means(z[6:], target.numpy()[6:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"mu": float("nan")}, {"momentum": 1.0}, {"entropy_epochs": -1}]
)
def test_settings_are_checked(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=rf"PMR\..*{next(iter(wrong))}"):
        PMR(**wrong)
