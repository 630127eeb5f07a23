"""A value clip that holds a share: the update, its fixed point, and what must not move it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_distill.clipping import TargetFractionClip
from lightning_distill.errors import ConfigError
from tests.builders import same_bits
from tests.verification import compared


def step(
    rule: TargetFractionClip, *grads: Tensor, at: int | None = None
) -> tuple[list[Tensor], float, float]:
    """Clipped gradients, the range used, and the share it clipped."""
    weights = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    values = rule.clip(weights, step=at).values
    clipped = [weight.grad for weight in weights if weight.grad is not None]
    return clipped, values["epsilon"].item(), values["clipped_share"].item()


def drifting(steps: int, size: int = 20_000) -> list[NDArray[np.float64]]:
    """Student-t with 3 degrees of freedom, whose scale goes up and down a hundredfold."""
    rng = np.random.default_rng(0)
    scales = 1e-3 * 10 ** np.sin(np.arange(steps) * 2 * math.pi / 400)
    return [scale * rng.standard_t(3, size) for scale in scales]


def test_is_the_geometric_update() -> None:
    rng = np.random.default_rng(1)
    rule, expected = TargetFractionClip(share=0.2, rate=0.7), math.nan
    for i in range(30):
        grads = [rng.normal(size=shape).astype(np.float32) * (1 + i) for shape in [(30, 7), (50,)]]
        flat = np.abs(np.concatenate([g.ravel() for g in grads]).astype(np.float64))
        if i == 0:
            expected = float(np.quantile(flat, 0.8))
        clipped, epsilon, share = step(rule, *map(torch.from_numpy, grads))
        compared(TargetFractionClip, epsilon, expected, rtol=1e-5, dtype=torch.float32)
        assert share == pytest.approx(np.mean(flat > expected), abs=1.1 / len(flat))
        for ours, grad in zip(clipped, grads, strict=True):
            compared(TargetFractionClip, ours, np.clip(grad, -expected, expected), rtol=1e-5)
        expected *= math.exp(0.7 * (share - 0.2))


def test_holds_its_share_while_gradients_drift() -> None:
    rule = TargetFractionClip(share=0.05, rate=1.0)
    shares = [step(rule, torch.from_numpy(grad).float())[2] for grad in drifting(1200)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)


def test_a_spike_is_forgotten() -> None:
    """A hundred steps later the range is that of a twin that has not seen it."""
    rule, twin, apart = TargetFractionClip(share=0.05), TargetFractionClip(share=0.05), []
    for i, grad in enumerate(drifting(300)):
        (clipped,), ours, _ = step(rule, torch.from_numpy(grad * (1e4 if i == 100 else 1)).float())
        _, theirs, _ = step(twin, torch.from_numpy(grad).float())
        apart.append(ours / theirs)
        assert clipped.abs().max().item() <= ours * (1 + 1e-6)
    assert apart[:101] == [1.0] * 101
    assert 1 < apart[101] <= math.exp(0.95)
    assert max(apart[200:]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("begin", [1e-6, 1e3])
def test_finds_its_range_from_a_wrong_one(begin: float) -> None:
    rule = TargetFractionClip(share=0.05, rate=1.0)
    rule.log_epsilon.fill_(math.log(begin))
    rule.begun.fill_(True)
    rng = np.random.default_rng(0)
    shares = [step(rule, torch.from_numpy(1e-2 * rng.standard_t(3, 5000)))[2] for _ in range(400)]
    assert np.mean(shares[250:]) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_moves_the_range(bad: float) -> None:
    rule = TargetFractionClip()
    grad = torch.randn(500)
    grad[7] = bad
    clipped, epsilon, _ = step(rule, grad)
    assert not rule.begun
    assert epsilon < 10
    assert clipped[0][7].isnan() if math.isnan(bad) else abs(clipped[0][7].item()) == pytest.approx(epsilon)
    step(rule, torch.randn(500))
    assert rule.begun
    before = rule.log_epsilon.clone()
    step(rule, grad)
    assert same_bits(rule.log_epsilon, before)


def test_zeros_do_not_count() -> None:
    """Rows of an embedding that were not looked up, or a modality that was absent."""
    dense, sparse = TargetFractionClip(share=0.1), TargetFractionClip(share=0.1)
    grad = torch.randn(100, 8)
    rows = torch.zeros(500, 8)
    rows[::5] = grad
    for _ in range(3):
        (ours,), epsilon, share = step(sparse, rows)
        (theirs,), expected, expected_share = step(dense, grad)
        assert epsilon == pytest.approx(expected)
        assert share == pytest.approx(expected_share)
        assert torch.equal(ours[::5], theirs)
    before = sparse.log_epsilon.clone()
    assert step(sparse, torch.zeros(9))[2] == 0
    assert same_bits(sparse.log_epsilon, before)


def test_zeros_from_the_start_are_no_start() -> None:
    rule = TargetFractionClip()
    (clipped,), _, _ = step(rule, torch.zeros(9))
    assert not clipped.any()
    assert not rule.begun
    assert step(rule, torch.arange(1.0, 101.0))[1] == pytest.approx(np.quantile(np.arange(1, 101), 0.95))


def test_a_second_look_at_a_step_does_not_move_the_range() -> None:
    rule = TargetFractionClip()
    for _ in range(3):
        step(rule, torch.randn(100), at=4)
    moved = rule.log_epsilon.clone()
    step(rule, 100 * torch.randn(100), at=4)
    assert same_bits(rule.log_epsilon, moved)
    step(rule, 100 * torch.randn(100), at=5)
    assert rule.log_epsilon > moved


def test_large_gradients_are_sampled_in_proportion() -> None:
    """A million entries, of which a tensor with a tenth is a hundred times larger."""
    large, small = 100 * torch.randn(100_000), torch.randn(300, 3000)
    _, _, share = step(TargetFractionClip(share=0.1), small, large)
    assert share == pytest.approx(0.1, abs=0.03)
    rule = TargetFractionClip(share=0.1)
    for _ in range(60):
        (a, b), epsilon, share = step(rule, small, large)
    truth = ((small.abs() > epsilon).sum() + (large.abs() > epsilon).sum()) / 1e6
    assert share == pytest.approx(truth.item(), abs=0.005)
    assert share == pytest.approx(0.1, abs=0.005)
    assert max(a.abs().max(), b.abs().max()).item() <= epsilon * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    rule = TargetFractionClip(share=0.1)
    shares = [step(rule, (1e-3 * torch.randn(4000)).to(dtype))[2] for _ in range(50)]
    assert rule.log_epsilon.dtype == torch.float32
    assert np.mean(shares) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_bad_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"TargetFractionClip\.share"):
        TargetFractionClip(share=share)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_bad_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"TargetFractionClip\.rate"):
        TargetFractionClip(rate=rate)
