"""MMD and CORAL against the papers' formulas, and what they do not depend on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lightning_distill.losses import CORAL, MaximumMeanDiscrepancy, coral, maximum_mean_discrepancy
from tests.losses.alignment_checks import (
    SCALES,
    Array,
    coral_reference,
    draw,
    gradients,
    mmd,
    mmd_reference,
    tensors,
    width_of,
)
from tests.verification import SLOPES, compared, gradchecked

SHAPES = [(5, 5, 3), (4, 7, 2), (6, 3, 40), (2, 2, 1), (9, 2, 11)]


def slopes(f: Callable[[Array, Array], float], x: Array, y: Array, step: float = 1e-6) -> list[Array]:
    """Central differences by each entry."""
    found = []
    for side in (x, y):
        grad = np.zeros_like(side)
        for at in np.ndindex(*side.shape):
            before, ends = side[at], []
            for sign in (1, -1):
                side[at] = before + sign * step
                ends.append(f(x, y))
            side[at], grad[at] = before, (ends[0] - ends[1]) / (2 * step)
        found.append(grad)
    return found


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_mmd_is_the_formula_of_the_paper(n: int, m: int, d: int, unbiased: bool) -> None:
    x, y = draw(n, d), draw(m, d, seed=1, shift=0.7)
    expected = mmd_reference(x, y, unbiased, width_of(x, y))
    compared(MaximumMeanDiscrepancy, mmd(x, y, unbiased), expected, atol=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_coral_is_the_formula_of_the_paper(n: int, m: int, d: int) -> None:
    x, y = draw(n, d), draw(m, d, seed=1, shift=0.7, scale=2.0)
    compared(CORAL, coral(*tensors(x, y)), coral_reference(x, y), rtol=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
def test_gradient_of_mmd_is_that_of_kernels_of_a_fixed_width(unbiased: bool) -> None:
    x, y = draw(4, 3), draw(3, 3, seed=1)
    x[2] = x[0]
    _, found = gradients(
        lambda a, b: maximum_mean_discrepancy(a, b, SCALES, unbiased), *tensors(x, y, grad=True)
    )
    width = width_of(x, y)
    expected = slopes(lambda a, b: mmd_reference(a, b, unbiased, width), x, y)
    for grad, slope in zip(found, expected, strict=True):
        compared(MaximumMeanDiscrepancy, grad, slope, rtol=1e-7, atol=1e-9, by=SLOPES)
    assert max(np.abs(slope).max() for slope in expected) > 1e-2


@pytest.mark.parametrize("width", [2, 12])
def test_gradcheck_of_coral(width: int) -> None:
    gradchecked(CORAL, coral, tensors(draw(4, width), draw(3, width, seed=1), grad=True))


def test_one_row_each_are_as_far_apart_as_their_width() -> None:
    """|a - b|^2 is its own mean, so that k = mean over scales of exp(-1 / (2 scale)), wherever they lie."""
    expected = 2 - 2 * np.mean([np.exp(-1 / (2 * s)) for s in SCALES])
    for seed in (1, 2):
        assert mmd(draw(1, 3), draw(1, 3, seed=seed)) == pytest.approx(expected, rel=1e-9)


def test_unbiased_mmd_is_0_over_all_ways_to_split_one_sample() -> None:
    """Its expectation where both sides are drawn from the same rows; the biased one's is above."""
    pool, unbiased, biased = draw(7, 2), [], []
    for chosen in combinations(range(7), 3):
        rest = [i for i in range(7) if i not in chosen]
        unbiased.append(mmd(pool[list(chosen)], pool[rest], unbiased=True))
        biased.append(mmd(pool[list(chosen)], pool[rest]))
    assert np.mean(unbiased) == pytest.approx(0, abs=1e-14)
    assert min(unbiased) < 0 < min(biased)


def test_far_samples_have_the_largest_distance() -> None:
    """Two points apart: kernels across are exp(-1 / (4 scale)) of a width of two thirds, and 1 inside."""
    x, y = np.zeros((2, 1)), np.full((2, 1), 5.0)
    across = np.mean([np.exp(-1.5 / (2 * s)) for s in SCALES])  # 4 of the 6 pairs are at 25
    assert mmd(x, y) == pytest.approx(2 - 2 * across, rel=1e-12)
    assert mmd(x, y, unbiased=True) == pytest.approx(2 - 2 * across, rel=1e-12)


# -- properties --------------------------------------------------------------------------------------------

COUNTS = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))


@st.composite
def samples(draw_one: st.DrawFn) -> tuple[Array, Array]:
    """Whole numbers: many rows are the same, and moves are exact. Not all rows are alike."""
    n, m, d = draw_one(COUNTS)
    both = draw_one(arrays(np.float64, (n + m, d), elements=st.integers(-8, 8).map(float)))
    both[0, 0] = both[-1, 0] + 1
    return both[:n], both[n:]


@given(samples(), st.integers(-50, 50), st.integers(0, 100))
def test_properties_of_mmd(sides: tuple[Array, Array], move: int, seed: int) -> None:
    x, y = sides
    value, d, rng = mmd(x, y), x.shape[1], np.random.default_rng(seed)
    same, turn = pytest.approx(value, abs=1e-10), np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert -1e-12 <= value < 2
    assert mmd(y, x) == same
    assert mmd(x + move, y + move) == same
    assert mmd(x @ turn, y @ turn) == same
    assert mmd(3 * x, 3 * y) == same
    assert mmd(rng.permutation(x), rng.permutation(y)) == same
    assert mmd(x, x) == 0
    assert mmd(x, np.concatenate([x, x])) == pytest.approx(0, abs=1e-12)


@given(samples(), st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 100))
def test_properties_of_coral(sides: tuple[Array, Array], move: int, other: int, seed: int) -> None:
    x, y = sides
    rng = np.random.default_rng(seed)
    value, turn = coral(*tensors(x, y)).item(), np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0]
    same = pytest.approx(value, rel=1e-9, abs=1e-9)
    assert value >= -1e-12
    assert coral(*tensors(y, x)).item() == same
    assert coral(*tensors(x + move, y + other)).item() == same
    assert coral(*tensors(x @ turn, y @ turn)).item() == same
    assert coral(*tensors(3 * x, 3 * y)).item() == pytest.approx(81 * value, rel=1e-9, abs=1e-9)
    assert coral(*tensors(rng.permutation(x), rng.permutation(y))).item() == same
