from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.robustness import Curve, area, effective

LEVELS = (0.0, 0.1, 0.4, 1.0)
VALUES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def curve(values: list[float], levels: tuple[float, ...] = LEVELS) -> Curve:
    return Curve("noise", "image", levels, {"accuracy": tuple(values)}, 10, 0)


@given(VALUES)
def test_area_is_the_mean_of_the_line_between_the_points(values: list[float]) -> None:
    # On a grid that holds every level, the midpoints' mean is exact for a line of straight pieces.
    middles = (np.arange(1000) + 0.5) / 1000
    expected = np.interp(middles, LEVELS, values).mean()
    assert area(curve(values), "accuracy") == pytest.approx(expected, abs=1e-12)


def test_area_of_fewer_levels_is_of_the_same_unit() -> None:
    assert area(curve([0.5, 0.5], (0.0, 0.2)), "accuracy") == pytest.approx(0.5)
    assert area(curve([0.5, 0.3], (0.0, 0.2)), "accuracy") == pytest.approx(0.4)


@given(VALUES, VALUES, st.floats(-1, 1), st.floats(-1, 1))
def test_effective_compares_falls_and_not_heights(
    f: list[float], r: list[float], up: float, other: float
) -> None:
    found = effective(curve(f), curve(r), "accuracy")
    expected = np.mean((np.array(f) - f[0]) - (np.array(r) - r[0]))
    assert found == pytest.approx(expected, abs=1e-12)
    moved = effective(curve([x + up for x in f]), curve([x + other for x in r]), "accuracy")
    assert moved == pytest.approx(found, abs=1e-12)
    assert effective(curve(r), curve(f), "accuracy") == pytest.approx(-found, abs=1e-12)


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"'acuracy'; did you mean 'accuracy'"):
        area(curve([1.0] * 4), "acuracy")
    with pytest.raises(ConfigError, match="no samples"):
        area(Curve("noise", "image", LEVELS, {}, 0, 0), "accuracy")
    with pytest.raises(ConfigError, match="the same levels"):
        effective(curve([1.0] * 4), curve([1.0, 0.5], (0.0, 1.0)), "accuracy")
