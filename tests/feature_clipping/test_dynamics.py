"""What a clip does to learning: 500 steps of SGD on one feature.

Learning rate 0.1, loss (clip(x) - target)^2 / 2, eps = 1. "Escape" starts at 5 eps with target 0; "drift" at
eps / 2 with target 2 eps, which no clip can reach.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lightning_distill.feature_clipping import (
    FeatureClip,
    HardClip,
    NormBallClip,
    StraightThroughClip,
    TanhClip,
    TowardsClip,
)

Make = Callable[[float], FeatureClip]


def train(clip: FeatureClip, start: list[float], target: list[float], steps: int = 500) -> torch.Tensor:
    x, wanted = torch.tensor([start], dtype=torch.float64, requires_grad=True), torch.tensor([target])
    for _ in range(steps):
        (grad,) = torch.autograd.grad((clip(x) - wanted).square().sum() / 2, x)
        x = (x - 0.1 * grad).detach().requires_grad_()
    return x.detach()[0]


def test_hard_never_escapes_and_does_not_drift() -> None:
    assert train(HardClip(1.0), [5.0], [0.0]).item() == 5.0
    assert train(HardClip(1.0), [0.5], [2.0]).item() == pytest.approx(1.016, abs=0.005)


def test_straight_through_escapes_and_drifts_without_bound() -> None:
    """Outside, each step moves x by 0.1: 496 steps from 1.016 on."""
    assert abs(train(StraightThroughClip(1.0), [5.0], [0.0]).item()) < 1e-3
    assert train(StraightThroughClip(1.0), [0.5], [2.0]).item() == pytest.approx(50.6, abs=0.05)


def test_towards_escapes_and_does_not_drift() -> None:
    assert abs(train(TowardsClip(1.0), [5.0], [0.0]).item()) < 1e-3
    assert train(TowardsClip(1.0), [0.5], [2.0]).item() == pytest.approx(1.016, abs=0.005)


def test_towards_comes_back_after_a_drift_that_straight_through_does_not_recover_from() -> None:
    """The loss changes its mind: 500 steps outwards, then 100 inwards."""
    for make, home in ((TowardsClip, True), (StraightThroughClip, False)):
        x = train(make(1.0), [0.5], [2.0])
        assert (abs(train(make(1.0), x.tolist(), [0.0], 100).item()) < 0.01) == home


def test_tanh_hardly_escapes_and_drifts_mildly() -> None:
    assert train(TanhClip(1.0), [5.0], [0.0]).item() == pytest.approx(4.99, abs=0.01)
    assert train(TanhClip(1.0), [0.5], [2.0]).item() == pytest.approx(3.0, abs=0.1)


def test_norm_ball_turns_but_is_not_pulled_inwards() -> None:
    assert train(NormBallClip(1.0), [5.0, 0.0], [0.0, 0.0]).tolist() == [5.0, 0.0]
    turned = train(NormBallClip(1.0), [5.0, 0.0], [0.6, 0.8])
    assert turned.norm() >= 5.0
    cosine = (turned / turned.norm()) @ torch.tensor([0.6, 0.8], dtype=torch.float64)
    assert cosine > 0.95
