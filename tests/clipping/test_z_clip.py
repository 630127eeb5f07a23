"""ZClip against a float64 reference, and its traps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_distill.clipping import ZClip
from lightning_distill.errors import ConfigError
from tests.verification import compared, guards


def norms_after(rule: ZClip, norms: Sequence[float]) -> list[float]:
    """What is left of gradients of these norms, spread over two tensors."""
    weights, found = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))], []
    for norm in map(float, norms):
        weights[0].grad, weights[1].grad = torch.tensor([0.6 * norm]), torch.tensor([0.0, -0.8 * norm])
        rule.clip(weights)
        found.append(math.hypot(weights[0].grad.item(), weights[1].grad.norm().item()))
    return found


def reference(norms: Sequence[float], alpha: float, threshold: float, warmup: int) -> list[float]:
    """The paper's equations, warm-up as it is."""
    first = np.asarray(norms[:warmup])
    mean, variance, after = first.mean(), first.var(), list(first)
    for norm in norms[warmup:]:
        deviation = math.sqrt(variance)
        z = (norm - mean) / (deviation + 1e-6)
        if z > threshold:
            norm = mean + threshold * deviation / (z / threshold)
        mean = alpha * mean + (1 - alpha) * norm
        variance = alpha * variance + (1 - alpha) * (norm - mean) ** 2
        after.append(norm)
    return after


def test_vectors() -> None:
    """After norms of .9, 1 and 1.1: 2 becomes 1.0417, then 20 becomes 1.0034."""
    after = norms_after(ZClip(warmup=3), [0.9, 1.0, 1.1, 2.0, 20.0])
    assert after[:3] == pytest.approx([0.9, 1.0, 1.1])
    assert after[3:] == pytest.approx([1.0417, 1.0034], abs=5e-5)


@pytest.mark.parametrize(("alpha", "threshold", "warmup"), [(0.97, 2.5, 25), (0.5, 1.0, 2), (0.0, 3.0, 4)])
def test_equals_the_paper(alpha: float, threshold: float, warmup: int) -> None:
    rng = np.random.default_rng(0)
    norms = rng.uniform(0.5, 1.5, size=120)
    norms[warmup + 5 :: 9] *= rng.uniform(2, 50, size=len(norms[warmup + 5 :: 9]))
    expected = reference(list(norms), alpha, threshold, warmup)
    compared(
        ZClip,
        norms_after(ZClip(alpha, threshold, warmup), list(norms)),
        expected,
        rtol=1e-4,
        dtype=torch.float32,
    )


def test_max_norm_bounds_the_warm_up_too_but_not_the_history() -> None:
    norms = [0.9, 1.0, 1.1, 2.0, 20.0, 1.0]
    bounded = norms_after(ZClip(warmup=3, max_norm=0.95), norms)
    free = norms_after(ZClip(warmup=3), norms)
    assert bounded == pytest.approx([min(n, 0.95) for n in free])


@guards(ZClip, "one NaN in the history, after which nothing is clipped any more")
def test_one_nan_does_not_switch_clipping_off() -> None:
    for poisoned in ([0.9, math.nan, 1.0, 1.1], [0.9, 1.0, 1.1, math.nan], [math.inf, 0.9, 1.0, 1.1]):
        after = norms_after(ZClip(warmup=3), [*poisoned, 1e6])
        assert after[-1] < 1.1


@guards(ZClip, "one outlier in the warm-up, after which nothing is clipped any more")
def test_one_outlier_in_the_warm_up_does_not_switch_clipping_off() -> None:
    """Taken as it is, it would give a mean of 401 and let 1000 pass."""
    rng = np.random.default_rng(0)
    warm = list(rng.uniform(0.8, 1.2, size=25))
    for place in (0, 12, 24):
        spoiled = [1e4 if i == place else n for i, n in enumerate(warm)]
        after = norms_after(ZClip(), [*spoiled, 1000.0])
        assert after[place] == pytest.approx(1e4)
        assert after[-1] < 5


def test_a_lasting_jump_is_held_down_for_good() -> None:
    """A limit of the method, which the docstring tells."""
    norms = np.random.default_rng(0).uniform(0.9, 1.1, size=1000)
    norms[30:] *= 100
    assert max(norms_after(ZClip(), list(norms))[30:]) < 1.5


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_spikes_are_seen_at_any_scale(scale: float) -> None:
    norms = [0.9, 1.0, 1.1, 2.0, 20.0, 1.0]
    expected = [scale * n for n in norms_after(ZClip(warmup=3), norms)]
    assert norms_after(ZClip(warmup=3), [scale * n for n in norms]) == pytest.approx(expected, rel=1e-4)


def test_norms_that_do_not_vary_are_left_alone_and_a_spike_among_them_is_not() -> None:
    after = norms_after(ZClip(warmup=5), [3.0] * 20 + [30.0])
    assert after[:-1] == pytest.approx([3.0] * 20, rel=1e-6)
    assert after[-1] == pytest.approx(3.0, rel=1e-3)


def test_steps_without_gradient_are_no_warm_up() -> None:
    """A mean of 0 would hold everything at 0 for ever."""
    for norms in ([0.0] * 10 + [0.9, 1.0, 1.1, 1.05], [0.9, 0.0, 0.0, 1.0, 1.1, 1.05]):
        assert norms_after(ZClip(warmup=3), norms) == pytest.approx(norms)


@given(st.lists(st.floats(0, 1e18), max_size=30))
def test_norms_never_grow_and_stay_finite(norms: list[float]) -> None:
    after = norms_after(ZClip(warmup=4), norms)
    assert all(0 <= a <= n * (1 + 1e-6) for a, n in zip(after, norms, strict=True))


def test_huge_norms_do_not_blind_it() -> None:
    """Squares of these leave float32."""
    after = norms_after(ZClip(warmup=3), [0.9e18, 1e18, 1.1e18, 1e19])
    assert after[-1] < 1.2e18


def test_a_norm_that_is_no_float32_is_clipped_all_the_same() -> None:
    rule, weight = ZClip(warmup=3), nn.Parameter(torch.zeros(4))
    for size in (1.0, 1.1, 0.9, 3e38):
        weight.grad = torch.full((4,), size)
        rule.clip([weight])
    assert 1.9 < weight.grad.norm() < 2.3


def test_report() -> None:
    rule, weight = ZClip(max_norm=2.0), nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    report = rule.clip([weight])
    assert report.values["norm"].item() == pytest.approx(5.0)
    assert report.values["coefficient"].item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 1.0),
        ("alpha", -0.1),
        ("alpha", math.nan),
        ("threshold", 0.0),
        ("threshold", math.inf),
        ("warmup", 1),
        ("max_norm", 0.0),
        ("max_norm", math.nan),
    ],
)
def test_bad_arguments_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"ZClip\.{name}"):
        ZClip(**{name: value})
