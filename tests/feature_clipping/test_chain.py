"""Several clips, one after the other."""

from __future__ import annotations

import math

import torch

from lightning_distill.feature_clipping import BoundaryClip, FeatureClipChain, HardClip, NormBallClip
from lightning_distill.units import StandardDeviation


def test_order_is_that_of_the_forward_pass() -> None:
    x = torch.tensor([[3.0, 4.0]])
    assert FeatureClipChain([HardClip(1.0), NormBallClip(9.0)])(x).tolist() == [[1.0, 1.0]]
    there = FeatureClipChain([NormBallClip(1.0), HardClip(0.7)])(x)
    torch.testing.assert_close(there, torch.tensor([[0.6, 0.7]]))


def test_a_hard_and_a_boundary_clip_bound_feature_and_gradient() -> None:
    x = torch.tensor([[3.0, 0.5, 0.5]], requires_grad=True)
    y = FeatureClipChain([HardClip(1.0), BoundaryClip(0.1)])(x)
    y.backward(torch.tensor([[5.0, 5.0, 0.01]]))
    assert y.tolist() == [[1.0, 0.5, 0.5]]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0.1, 0.01]]))


def test_an_entry_is_saturated_where_any_clip_finds_it_so() -> None:
    chain = FeatureClipChain([HardClip(2.0), HardClip(1.0), BoundaryClip(0.1)])
    assert chain.saturated_share(torch.tensor([[3.0, 1.5, 0.5, -9.0]])).item() == 0.75


def test_it_bounds_the_feature_where_any_clip_does() -> None:
    assert FeatureClipChain([BoundaryClip(0.1), HardClip(1.0)]).bounds_feature
    assert not FeatureClipChain([BoundaryClip(0.1), BoundaryClip(1.0)]).bounds_feature


def test_nan_is_not_saturated_as_it_is_not_under_any_clip_alone() -> None:
    x = torch.tensor([[math.nan, 3.0, 0.5]])
    assert FeatureClipChain([HardClip(1.0)]).saturated(x).tolist() == HardClip(1.0).saturated(x).tolist()


def test_looking_does_not_move_a_unit() -> None:
    chain = FeatureClipChain([HardClip(1.0, StandardDeviation()), HardClip(1.0, StandardDeviation())])
    chain(torch.randn(4, 3))
    before = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    chain.saturated_share(100 * torch.randn(4, 3))
    assert before
    assert all(torch.equal(chain.state_dict()[name], tensor) for name, tensor in before.items())
