"""AGM against 2308.07686, in NumPy."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import AGM
from lightning_distill.gradient_balancing.agm import lead, shapley_values
from tests.builders import same_bits
from tests.gradient_balancing.parts import CLASSES, ROWS, Student, inputs_of, take_step, view_of
from tests.verification import compared


def subsets(modalities: str) -> list[frozenset[str]]:
    return [
        frozenset(m for i, m in enumerate(modalities) if bits >> i & 1)
        for bits in range(1, 2 ** len(modalities))
    ]


def cross_entropy(z: Any, y: Any) -> Any:
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return -np.log(np.maximum(p[np.arange(len(y)), y], 1e-8)).mean()


@pytest.mark.parametrize("modalities", ["ab", "abc", "abcd"])
def test_shapley_value_is_the_mean_of_what_each_adds_over_all_orders(modalities: str) -> None:
    rng = np.random.default_rng(0)
    v: dict[frozenset[str], Any] = {s: rng.normal(size=(5, 3)) for s in subsets(modalities)}
    found = shapley_values({s: torch.from_numpy(x) for s, x in v.items()}, tuple(modalities))
    v[frozenset()] = np.zeros((5, 3))
    for m in modalities:
        added = [
            v[frozenset(o[: o.index(m) + 1])] - v[frozenset(o[: o.index(m)])]
            for o in permutations(modalities)
        ]
        compared(AGM, found[m], np.mean(added, axis=0), rtol=1e-7, atol=1e-12)
    total = torch.stack(list(found.values())).sum(dim=0)
    np.testing.assert_allclose(total.numpy(), v[frozenset(modalities)], atol=1e-12)


def test_two_modalities_are_the_papers() -> None:
    """phi_a = (v(ab) - v(b) + v(a)) / 2, r_a = exp(s_b - s_a)."""
    rng = np.random.default_rng(1)
    v = {s: rng.normal(size=(4, 3)) for s in subsets("ab")}
    phi = shapley_values({s: torch.from_numpy(x) for s, x in v.items()}, ("a", "b"))["a"]
    expected = (v[frozenset("ab")] - v[frozenset("b")] + v[frozenset("a")]) / 2
    compared(AGM, phi, expected, rtol=1e-7, atol=1e-12)
    r = lead(torch.tensor([0.3, 1.1], dtype=torch.float64), torch.tensor([True, True]))
    compared(AGM, r, [np.exp(0.8), np.exp(-0.8)], rtol=1e-7)


def test_lead_of_one_that_is_not_there_is_1() -> None:
    r = lead(torch.tensor([0.3, 1.1, 7.0]), torch.tensor([True, True, False]))
    assert r.tolist() == pytest.approx([np.exp(0.8), np.exp(-0.8), 1.0])
    assert lead(torch.tensor([0.3, 1.1]), torch.tensor([True, False])).tolist() == [1.0, 1.0]


def setting(modalities: tuple[str, ...] = ("a", "b", "c")) -> tuple[Any, Any, Any]:
    torch.manual_seed(3)
    inputs = {m: x.double() for m, x in inputs_of(modalities).items()}
    return Student(modalities).double(), inputs, torch.arange(ROWS) % CLASSES


def scores_of(view: Any) -> Any:
    """From the paper: cross-entropy of each modality's Shapley share."""
    with torch.no_grad():
        v = {s: view.answer_from(tuple(s)).numpy() for s in subsets("".join(view.features))}
    v[frozenset()] = np.zeros_like(v[frozenset(view.features)])
    scores = []
    for m in view.features:
        orders = list(permutations(view.features))
        phi = np.mean(
            [v[frozenset(o[: o.index(m) + 1])] - v[frozenset(o[: o.index(m)])] for o in orders], axis=0
        )
        scores.append(cross_entropy(phi, view.target.numpy()))
    return np.array(scores)


def ratios(s: Any) -> Any:
    return np.exp([np.mean([s[j] - s[i] for j in range(len(s)) if j != i]) for i in range(len(s))])


def test_is_the_papers_over_several_steps() -> None:
    """kappa = exp(alpha * (tau - r)), tau from the running mean of the steps before, 1 in the first."""
    student, inputs, target = setting()
    balancer, mean = AGM(0.7), np.zeros(3)
    for step in range(4):
        x = {m: torch.roll(v, step, 1) for m, v in inputs.items()}
        s = scores_of(view_of(student, x, target))
        kappa = np.exp(0.7 * (ratios(mean) - ratios(s)))
        done = take_step(balancer, student, view_of(student, x, target, step=step))
        mean = mean * step / (step + 1) + s / (step + 1)
        for i, m in enumerate("abc"):
            compared(AGM, done.told[f"modulation/{m}"], kappa[i], rtol=1e-5)
            for old, new in done.of(m):
                torch.testing.assert_close(new, old * kappa[i], rtol=1e-5, atol=0)
        assert all(same_bits(g, done.after[n]) for n, g in done.before.items() if n.startswith("head."))
    np.testing.assert_allclose([balancer.means.at(m, torch.zeros(())).item() for m in "abc"], mean, rtol=1e-5)


def test_a_step_seen_again_does_not_move_history() -> None:
    student, inputs, target = setting()
    balancer = AGM(0.7)
    take_step(balancer, student, view_of(student, inputs, target))
    before = {n: v.clone() for n, v in balancer.state_dict().items()}
    take_step(balancer, student, view_of(student, inputs, target), fresh=False)
    assert all(same_bits(v, before[n]) for n, v in balancer.state_dict().items())


def test_alpha_0_changes_nothing() -> None:
    student, inputs, target = setting()
    balancer = AGM(0.0)
    for step in range(2):
        done = take_step(balancer, student, view_of(student, inputs, target, step=step))
        assert all(same_bits(g, done.after[name]) for name, g in done.before.items())


def test_an_absent_modality_has_no_share_in_a_sample() -> None:
    """The scores of two modalities are those without the third, where no sample has it."""
    student, inputs, target = setting()
    present = {m: torch.full((ROWS,), m != "c") for m in inputs}
    told = take_step(AGM(0.7), student, view_of(student, inputs, target, present)).told
    with torch.no_grad():
        view = view_of(student, inputs, target, present)
        a, b, ab = (view.answer_from(tuple(s)).numpy() for s in ("a", "b", "ab"))
    assert told["score/a"].item() == pytest.approx(cross_entropy((ab - b + a) / 2, target.numpy()), rel=1e-6)
    assert told["score/b"].item() == pytest.approx(cross_entropy((ab - a + b) / 2, target.numpy()), rel=1e-6)
    assert told["modulation/c"].item() == 1


def test_one_bad_step_keeps_kappa_finite() -> None:
    student, inputs, target = setting(("a", "b"))
    balancer = AGM(1.0)
    take_step(balancer, student, view_of(student, inputs, target))
    balancer.means.at("a", torch.zeros(())).fill_(0.0)
    balancer.means.at("b", torch.zeros(())).fill_(18.0)  # tau = e^18
    told = take_step(balancer, student, view_of(student, inputs, target, step=1)).told
    assert told["modulation/a"].item() == pytest.approx(np.exp(10), rel=1e-5)


def test_five_modalities_are_refused() -> None:
    student, inputs, target = setting(("a", "b", "c", "d", "e"))
    view = view_of(student, inputs, target)
    with pytest.raises(ConfigError, match="AGM: found 5 modalities; expected 4 or fewer"):
        AGM(1.0).terms({"task": view.logits.sum()}, view)


def test_alpha_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"AGM\.alpha: found -0.1"):
        AGM(-0.1)
