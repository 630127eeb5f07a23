"""MMPareto against 2405.17730, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing import MMPareto
from lightning_distill.gradient_balancing.mm_pareto import integration_weights
from tests.builders import same_bits
from tests.gradient_balancing.parts import CLASSES, ROWS, Student, inputs_of, take_step, view_of
from tests.verification import compared

VECTORS = arrays(np.float64, (2, 5), elements=st.floats(-10, 10, allow_subnormal=False))


def products(g_m: Any, g_u: Any) -> torch.Tensor:
    both = np.stack([g_m, g_u])
    return torch.from_numpy(both @ both.T)


def paper(g_m: Any, g_u: Any, gamma: float) -> Any:
    """The shortest convex combination by search over a grid, then its length."""
    if g_m @ g_u >= 0:
        return gamma * (g_m + g_u)
    shares, (mm, mu, uu) = np.linspace(0, 1, 1_000_001), (g_m @ g_m, g_m @ g_u, g_u @ g_u)
    lengths = shares**2 * mm + 2 * shares * (1 - shares) * mu + (1 - shares) ** 2 * uu
    share = shares[lengths.argmin()]
    h = 2 * share * g_m + 2 * (1 - share) * g_u
    return gamma * h * max(1.0, np.linalg.norm(g_m + g_u) / np.linalg.norm(h))


SEARCH = "the paper's smallest norm, by search of a million shares"


@pytest.mark.parametrize("seed", range(6))
def test_is_the_papers_integration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g_m, g_u = rng.normal(size=6), rng.normal(size=6)
    g_u = g_u if seed < 3 else g_u - 2 * (g_u @ g_m) / (g_m @ g_m) * g_m * (g_u @ g_m > 0)
    w = integration_weights(products(g_m, g_u), 1.5).numpy()
    compared(MMPareto, w[0] * g_m + w[1] * g_u, paper(g_m, g_u, 1.5), rtol=1e-4, atol=1e-4, by=SEARCH)


@given(VECTORS)
def test_the_direction_serves_both(vectors: Any) -> None:
    g_m, g_u = vectors
    sizes = np.linalg.norm(g_m) * np.linalg.norm(g_u)
    assume(sizes > 1e-3)
    w = integration_weights(products(g_m, g_u), 1.0).numpy()
    h = w[0] * g_m + w[1] * g_u
    slack = 1e-9 * (1 + np.abs(w).max()) * (np.linalg.norm(g_m) + np.linalg.norm(g_u)) ** 2
    assert h @ g_m >= -slack
    assert h @ g_u >= -slack


@given(VECTORS, st.floats(0.1, 3))
def test_the_length_is_that_of_the_sum_times_gamma(vectors: Any, gamma: float) -> None:
    g_m, g_u = vectors
    sizes = np.linalg.norm(g_m) * np.linalg.norm(g_u)
    assume(sizes > 1e-3)
    assume(g_m @ g_u > -0.999 * sizes)
    w = integration_weights(products(g_m, g_u), gamma).numpy()
    length = np.linalg.norm(w[0] * g_m + w[1] * g_u)
    assert length == pytest.approx(gamma * np.linalg.norm(g_m + g_u), rel=1e-6, abs=1e-9)


def test_opposed_gradients_give_next_to_nothing() -> None:
    g = np.array([3.0, -4.0])
    for factor in (-1.0, -5.0, -0.1):
        w = integration_weights(products(g, factor * g), 1.5).numpy()
        assert np.linalg.norm(w[0] * g + w[1] * factor * g) < 1e-9


@pytest.mark.parametrize("zero", [0, 1])
def test_a_gradient_that_is_not_there(zero: int) -> None:
    vectors = np.array([[1.0, 2.0], [3.0, -1.0]])
    vectors[zero] = 0
    w = integration_weights(products(*vectors), 1.5)
    assert w.isfinite().all()
    if zero == 1:
        assert w[0] == 1


def setting() -> tuple[Any, Any, Any]:
    torch.manual_seed(4)
    inputs = {m: x.double() for m, x in inputs_of(("a", "b", "c")).items()}
    return Student(("a", "b", "c")).double(), inputs, torch.arange(ROWS) % CLASSES


def test_adds_the_losses_of_single_modalities() -> None:
    student, inputs, target = setting()
    view = view_of(student, inputs, target)
    terms = MMPareto().terms({"task": torch.tensor(2.0)}, view)
    assert list(terms) == ["task", "unimodal/a", "unimodal/b", "unimodal/c"]
    for m in "abc":
        z = view.answer_from((m,)).detach().numpy()
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        expected = -log_p[np.arange(ROWS), target.numpy()].mean()
        compared(MMPareto, terms[f"unimodal/{m}"], expected, rtol=1e-9)


def test_joins_the_gradients_of_each_encoder_as_a_whole() -> None:
    """Task and distillation are one side, the modality's own loss the other; the rest keeps the sum."""
    student, inputs, target = setting()
    met = set()
    for step in range(12):
        x = {m: torch.roll(v, step, 0) for m, v in inputs.items()}
        view = view_of(student, x, target, step=step)
        done = take_step(MMPareto(1.5), student, view, kd=30.0 * (step % 2))
        for m in "abc":
            names = [n for n in done.before if n.startswith(f"encoders.{m}.")]

            def flat(term: str, names: list[str] = names, done: Any = done) -> Any:
                return torch.cat([done.by_term[term][n].flatten() for n in names]).numpy()

            g_m, g_u = flat("task") + flat("kd"), flat(f"unimodal/{m}")
            after = torch.cat([done.after[n].flatten() for n in names]).numpy()
            expected = paper(g_m, g_u, 1.5)
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
            cosine = g_m @ g_u / np.linalg.norm(g_m) / np.linalg.norm(g_u)
            assert done.told[f"cosine/{m}"].item() == pytest.approx(cosine, abs=1e-9)
            met.add(bool(cosine < 0))
        assert all(same_bits(g, done.after[n]) for n, g in done.before.items() if n.startswith("head."))
    assert met == {True, False}, "conflict and no conflict were both met"


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("inf")])
def test_gamma_is_checked(gamma: float) -> None:
    with pytest.raises(ConfigError, match=r"MMPareto\.gamma"):
        MMPareto(gamma)
