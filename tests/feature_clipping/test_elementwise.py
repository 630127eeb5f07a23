"""Ranges in units: what is measured, and when."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_distill.feature_clipping import HardClip
from lightning_distill.units import Quantile, StandardDeviation, Unit


def test_the_bound_is_epsilon_deviations() -> None:
    x = torch.randn(50, 8).double()
    root = np.sqrt((x.numpy() ** 2).mean())
    expected = np.clip(x.numpy(), -1.5 * root, 1.5 * root)
    clip = HardClip(1.5, StandardDeviation(0.0))
    np.testing.assert_allclose(clip(x).numpy(), expected, rtol=1e-6)
    assert clip.saturated_share(x).item() == pytest.approx((np.abs(x.numpy()) > 1.5 * root).mean(), abs=1e-6)


def test_history_moves_in_training_and_is_read_in_evaluation() -> None:
    clip = HardClip(1.0, StandardDeviation(0.5))
    clip(torch.full((2, 3), 2.0))
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    huge = torch.full((2, 3), 100.0)
    assert torch.equal(clip.eval()(huge), torch.full((2, 3), 2.0))
    clip.train().saturated_share(huge)
    assert all(torch.equal(clip.state_dict()[name], tensor) for name, tensor in before.items())
    clip(huge)
    assert not all(torch.equal(clip.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("unit", [StandardDeviation, Quantile])
def test_absent_rows_are_not_measured(unit: type[Unit]) -> None:
    """6 rows of which 3 are there: each of these counts twice."""
    x, present = torch.randn(6, 50), torch.tensor([False, True, True, False, False, True])
    x = x.masked_fill(~present[:, None], 0.0)
    clip, twin = HardClip(1.0, unit()), HardClip(1.0, unit())
    torch.testing.assert_close(clip(x, present)[present], twin(x[present].repeat(2, 1))[:3])


@pytest.mark.parametrize("unit", [StandardDeviation, Quantile])
def test_a_batch_without_the_modality_says_nothing(unit: type[Unit]) -> None:
    clip, none = HardClip(1.0, unit()), torch.zeros(4, dtype=torch.bool)
    for _ in range(2):
        before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
        assert torch.equal(clip(torch.zeros(4, 6), none), torch.zeros(4, 6))
        clip(50 * torch.randn(4, 6), none)
        assert all(torch.equal(clip.state_dict()[name], tensor) for name, tensor in before.items())
        clip(torch.randn(4, 6), ~none)


def test_a_sick_batch_does_not_move_the_unit() -> None:
    clip, sick = HardClip(1.0, StandardDeviation()), torch.randn(4, 6)
    clip(torch.full((4, 6), 2.0))
    sick[0, 0] = float("nan")
    clip(sick)
    assert clip(torch.full((4, 6), 2.0)).max().item() == pytest.approx(2.0)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 4.0])
def test_one_range_starves_the_larger_feature_and_a_unit_does_not(ratio: float) -> None:
    """erf(eps / (sigma sqrt 2)) of a normal feature's entries still learn."""
    x = ratio * torch.randn(200, 200)
    passed = torch.erf(torch.tensor(1 / (ratio * 2**0.5))).item()
    assert 1 - HardClip(1.0).saturated_share(x).item() == pytest.approx(passed, abs=0.01)
    unit = HardClip(1.0, StandardDeviation())
    unit(x)
    assert 1 - unit.saturated_share(x).item() == pytest.approx(0.683, abs=0.01)
