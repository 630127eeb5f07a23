"""AutoClip against `numpy.percentile` of all norms so far."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from lightning_distill.clipping import AutoClip
from lightning_distill.errors import ConfigError
from tests.verification import compared, guards

PERCENTILE = "numpy.percentile"


def norms_after(rule: AutoClip, norms: list[float] | NDArray[np.float64]) -> list[float]:
    """What is left of gradients of these norms, spread over two tensors."""
    weights, found = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))], []
    for norm in map(float, norms):
        weights[0].grad, weights[1].grad = torch.tensor([0.6 * norm]), torch.tensor([0.0, -0.8 * norm])
        rule.clip(weights)
        found.append(math.hypot(weights[0].grad.item(), weights[1].grad.norm().item()))
    return found


def test_vector_of_the_paper_s_code() -> None:
    """Norms 1, 2, 3 at p = 10 give bounds 1, 1.1, 1.2."""
    found = norms_after(AutoClip(10), [1.0, 2.0, 3.0])
    compared(
        AutoClip, found, [1.0, 1.1, 1.2], rtol=1e-6, by="values of the authors' code", dtype=torch.float32
    )


@pytest.mark.parametrize("percentile", [0.0, 10.0, 37.5, 50.0, 99.0, 100.0])
def test_equals_numpy(percentile: float) -> None:
    norms = np.random.default_rng(0).lognormal(sigma=2.0, size=60)
    expected = [min(n, np.percentile(norms[: t + 1], percentile)) for t, n in enumerate(norms)]
    compared(
        AutoClip,
        norms_after(AutoClip(percentile), norms),
        expected,
        rtol=1e-5,
        by=PERCENTILE,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("percentile", [10.0, 60.0])
def test_while_norms_are_stationary_all_but_p_in_a_hundred_are_clipped(percentile: float) -> None:
    norms = np.random.default_rng(0).lognormal(size=1500)
    after = np.array(norms_after(AutoClip(percentile), norms))
    assert np.mean(after < norms * (1 - 1e-5)) == pytest.approx(1 - percentile / 100, abs=0.02)


def test_window_holds_the_latest_norms() -> None:
    norms = np.random.default_rng(1).lognormal(size=40)
    expected = [min(n, np.percentile(norms[max(0, t - 6) : t + 1], 25)) for t, n in enumerate(norms)]
    compared(
        AutoClip,
        norms_after(AutoClip(25, window=7), norms),
        expected,
        rtol=1e-5,
        by=PERCENTILE,
        dtype=torch.float32,
    )


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(0, 100))
def test_norms_never_grow_and_the_first_step_passes(norms: list[float], percentile: float) -> None:
    after = norms_after(AutoClip(percentile), norms)
    assert after[0] == pytest.approx(norms[0], rel=1e-6)
    assert all(a <= n * (1 + 1e-6) for a, n in zip(after, norms, strict=True))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=10), st.integers(-20, 20))
def test_follows_the_scale_of_the_loss(norms: list[float], power: int) -> None:
    scale = 2.0**power
    scaled = norms_after(AutoClip(30), [scale * n for n in norms])
    assert scaled == pytest.approx([scale * n for n in norms_after(AutoClip(30), norms)], rel=1e-5)


def test_the_whole_gradient_keeps_its_direction() -> None:
    """One factor for all tensors; the authors' TensorFlow version bends the direction."""
    rule, weights = AutoClip(0), [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for small, large in [(0.3, 0.4), (3.0, 40.0)]:
        weights[0].grad, weights[1].grad = torch.tensor([small]), torch.tensor([large])
        rule.clip(weights)
    after = [w.grad.item() for w in weights]
    assert after[0] / after[1] == pytest.approx(3.0 / 40.0)
    assert math.hypot(*after) == pytest.approx(0.5)


@guards(AutoClip, "one NaN in the history, after which nothing is clipped any more")
def test_one_nan_does_not_last() -> None:
    with_nan = norms_after(AutoClip(50), [1.0, math.nan, 2.0, math.inf, 3.0, 4.0])
    assert [n for n in with_nan if math.isfinite(n)] == norms_after(AutoClip(50), [1.0, 2.0, 3.0, 4.0])


@guards(AutoClip, "steps of norm 0 in the history, which end training")
def test_steps_without_gradient_do_not_end_training() -> None:
    """Zeros among the norms would be their 10th percentile."""
    after = norms_after(AutoClip(10), [0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert after == pytest.approx([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])


def test_a_norm_that_is_no_float32_is_clipped_all_the_same() -> None:
    rule, weight = AutoClip(50), nn.Parameter(torch.zeros(4))
    for size in (1.0, 1.1, 0.9, 3e38):
        weight.grad = torch.full((4,), size)
        rule.clip([weight])
    assert 1.9 < weight.grad.norm() < 2.3


def test_report() -> None:
    rule, weight = AutoClip(0), nn.Parameter(torch.zeros(2))
    for size in (5.0, 10.0):
        weight.grad = torch.tensor([0.6 * size, 0.8 * size])
        report = rule.clip([weight])
    assert report.values["norm"].item() == pytest.approx(10.0)
    assert report.values["coefficient"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("percentile", [-1.0, 100.5, math.nan])
def test_bad_percentile_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match=r"AutoClip\.percentile"):
        AutoClip(percentile)


def test_bad_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"AutoClip\.window"):
        AutoClip(window=0)
