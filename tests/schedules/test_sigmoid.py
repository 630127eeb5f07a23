"""The schedule of the reversed gradient."""

from __future__ import annotations

import itertools
import math

import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.schedules import SigmoidRamp


@pytest.mark.parametrize(("steps", "high", "gamma"), [(100, 1.0, 10.0), (7, 0.3, 2.5), (1000, -1.0, 1.0)])
def test_is_that_of_the_paper(steps: int, high: float, gamma: float) -> None:
    ramp = SigmoidRamp(steps, high, gamma)
    for step in range(0, 2 * steps, max(steps // 10, 1)):
        p = min(step / steps, 1.0)
        assert ramp(step, epoch=3) == pytest.approx(high * (2 / (1 + math.exp(-gamma * p)) - 1), abs=1e-15)


def test_grows_from_nothing_and_stays() -> None:
    ramp = SigmoidRamp(steps=50, high=2.0)
    values = [ramp(step, epoch=0) for step in range(80)]
    assert values[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(values[:51]))
    assert set(values[50:]) == {values[50]}
    assert values[50] == pytest.approx(2.0, abs=2e-4)


def test_the_iterations_of_transfer_learning_library_are_other_settings() -> None:
    """There, alpha is 1 over 1000 iterations and iterations beyond count on."""
    ramp = SigmoidRamp(steps=10_000, high=1.0, sharpness=10.0)
    for iteration in (0, 1, 500, 1000, 3000, 10_000):
        theirs = 2.0 * 1.0 / (1.0 + math.exp(-1.0 * iteration / 1000)) - 1.0
        assert ramp(iteration, epoch=0) == pytest.approx(theirs, abs=1e-12)


def test_no_sharpness_is_too_large() -> None:
    assert SigmoidRamp(steps=2, sharpness=1e6)(1, epoch=0) == 1.0


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"sharpness": 0.0}, {"sharpness": math.inf}, {"sharpness": math.nan}, {"high": math.nan}],
)
def test_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"SigmoidRamp: found steps"):
        SigmoidRamp(**options)  # type: ignore[arg-type]
