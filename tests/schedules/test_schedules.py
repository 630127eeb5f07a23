"""Weights that change during training."""

from __future__ import annotations

import itertools
import math

import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.schedules import CosineRamp, LinearWarmup


def test_warmup_is_that_of_the_paper() -> None:
    """min(epoch / 20, 1) with epochs counted from 1."""
    warmup = LinearWarmup(weight=8.0, epochs=20)
    for epoch in (1, 5, 20, 21, 300):
        assert warmup(step=123, epoch=epoch - 1) == pytest.approx(8.0 * min(epoch / 20, 1))


def test_ramp_goes_from_start_to_end_without_a_jump() -> None:
    ramp = CosineRamp(start=0.2, end=1.0, first=10, last=110)
    values = [ramp(step, epoch=0) for step in range(130)]
    assert values[:11] == pytest.approx([0.2] * 11)
    assert values[110:] == pytest.approx([1.0] * 20)
    assert all(0 <= b - a < 0.8 * math.pi / 2 / 100 + 1e-9 for a, b in itertools.pairwise(values))
    assert values[35] == pytest.approx(0.2 + 0.8 * (1 - math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize(("first", "last"), [(5, 5), (9, 3), (-1, 4)])
def test_ramp_needs_two_steps_in_order(first: int, last: int) -> None:
    with pytest.raises(ConfigError, match=r"CosineRamp: found first"):
        CosineRamp(0.0, 1.0, first, last)


def test_warmup_needs_an_epoch() -> None:
    with pytest.raises(ConfigError, match=r"LinearWarmup\.epochs"):
        LinearWarmup(epochs=0)
