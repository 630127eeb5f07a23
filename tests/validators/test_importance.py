"""Weights of source rows against SciPy and known densities; the two risks against NumPy."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from lightning_distill.errors import ConfigError
from lightning_distill.validators import ImportanceWeightedRisk, density_ratio, importance_weighted_risk
from tests.verification import compared

Array = NDArray[np.float64]


def two_domains(n: int = 21, m: int = 34, dim: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, dim)) * [1, 20, 0.1], rng.normal(size=(m, dim)) * [1, 20, 0.1] + [0.5, 4, 0]


def ratio_by_hand(x: Array, y: Array, folds: int, l2: float) -> Array:
    """Each fold's regression from SciPy, with labels 1 for the target and -1 for the source."""
    weights = np.zeros(len(x))
    for k in range(folds):
        seen = np.array([row for i, row in enumerate(x) if i % folds != k])
        known = np.array([row for i, row in enumerate(y) if i % folds != k])
        rows = np.concatenate([seen, known])
        sign = np.array([-1.0] * len(seen) + [1.0] * len(known))
        mean, spread = rows.mean(axis=0), rows.std(axis=0)

        def loss(a: Array, z: Array = (rows - mean) / spread, s: Array = sign) -> float:
            return float(np.mean(np.logaddexp(0, -s * (z @ a[:-1] + a[-1]))) + l2 / 2 * np.sum(a[:-1] ** 2))

        a = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-9}).x
        for i, row in enumerate(x):
            if i % folds == k:
                odds = np.exp((row - mean) / spread @ a[:-1] + a[-1])
                weights[i] = odds * len(seen) / len(known)
    return weights


@pytest.mark.parametrize(("folds", "l2"), [(2, 0.01), (3, 0.5)])
def test_weights_are_those_of_another_solver(folds: int, l2: float) -> None:
    x, y = two_domains()
    found = density_ratio(torch.from_numpy(x), torch.from_numpy(y), folds, l2)
    assert found.dtype == torch.float64
    by = "scipy.optimize, logistic regression"
    compared(ImportanceWeightedRisk, found, ratio_by_hand(x, y, folds, l2), rtol=1e-4, by=by)


def test_weights_are_the_ratio_of_known_densities() -> None:
    """N(1, 1) against N(0, 1): log w = x - 1/2."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 1)), rng.normal(size=(2000, 1)) + 1
    w = density_ratio(torch.from_numpy(x), torch.from_numpy(y), l2=1e-6).numpy()
    assert np.abs(np.log(w) - (x[:, 0] - 0.5)).mean() < 0.1
    assert w.mean() == pytest.approx(1, abs=0.1)

    errors = (x[:, 0] > 1.5).astype(float)
    truth = erfc(0.5 / sqrt(2)) / 2  # P(N(1, 1) > 1.5)
    for control_variate in (False, True):
        risk = importance_weighted_risk(torch.from_numpy(errors), torch.from_numpy(w), control_variate)
        assert risk.item() == pytest.approx(truth, abs=0.06)
    assert abs(errors.mean() - truth) > 0.2


def test_no_row_is_weighed_by_a_regression_that_has_seen_it() -> None:
    x, y = (torch.from_numpy(side) for side in two_domains())
    moved = x.clone()
    moved[4] += 100
    before, after = density_ratio(x, y), density_ratio(moved, y)
    others_of_its_fold = [i for i in range(0, len(x), 2) if i != 4]
    assert torch.equal(before[others_of_its_fold], after[others_of_its_fold])
    assert not torch.isclose(before[1::2], after[1::2]).all()


def test_alike_domains_weigh_all_rows_about_alike() -> None:
    numbers = torch.Generator().manual_seed(1)
    x, y = torch.randn(600, 4, generator=numbers), torch.randn(300, 4, generator=numbers)
    assert (density_ratio(x, y).log().abs() < 1).all()


def test_domains_that_never_meet_stay_finite() -> None:
    x = torch.randn(40, 3)
    w = density_ratio(x, x + 1e6)
    assert w.isfinite().all()
    assert w.max() < 0.5
    assert density_ratio(x, torch.cat([x + 1e6, x - 1e6])).isfinite().all()
    assert importance_weighted_risk(torch.ones(40), density_ratio(x, x + 1e6)).isfinite()


@pytest.mark.parametrize("sides", [(0, 5), (1, 5), (5, 0), (5, 1), (2, 2), (3, 2)])
def test_few_rows(sides: tuple[int, int]) -> None:
    w = density_ratio(torch.randn(sides[0], 3), torch.randn(sides[1], 3))
    assert w.shape == sides[:1]
    assert w.isfinite().all()
    assert min(sides) >= 2 or (w == 1).all()


def test_a_constant_feature_and_identical_rows() -> None:
    x = torch.zeros(6, 2)
    torch.testing.assert_close(density_ratio(x, torch.zeros(9, 2)), torch.ones(6).double(), rtol=0, atol=0.3)


def risk_by_hand(errors: Array, w: Array, control_variate: bool) -> float:
    weighted = [a * b for a, b in zip(w, errors, strict=True)]
    plain = sum(weighted) / len(w)
    if not control_variate:
        return plain
    mean = sum(w) / len(w)
    covariance = sum((a - plain) * (b - mean) for a, b in zip(weighted, w, strict=True)) / (len(w) - 1)
    eta = -covariance / (sum((b - mean) ** 2 for b in w) / (len(w) - 1))
    return plain + eta * mean - eta


@pytest.mark.parametrize("control_variate", [False, True])
def test_risk(control_variate: bool) -> None:
    rng = np.random.default_rng(6)
    errors, w = (rng.random(50) < 0.3).astype(float), rng.gamma(2.0, size=50)
    found = importance_weighted_risk(torch.from_numpy(errors), torch.from_numpy(w), control_variate)
    compared(ImportanceWeightedRisk, found, risk_by_hand(errors, w, control_variate), rtol=1e-12)


def test_equal_weights_give_the_plain_risk() -> None:
    errors = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for control_variate in (False, True):
        assert importance_weighted_risk(errors, torch.ones(4), control_variate) == 0.25


def test_the_control_variate_takes_out_a_wrong_scale() -> None:
    """All answers are wrong: whatever the weights, the risk is 1."""
    w = torch.rand(30, generator=torch.Generator().manual_seed(0)) * 3
    assert importance_weighted_risk(torch.ones(30), w).item() == pytest.approx(1, abs=1e-9)
    assert abs(importance_weighted_risk(torch.ones(30), w, control_variate=False).item() - 1) > 0.1


def test_risk_of_no_row_and_of_one() -> None:
    assert importance_weighted_risk(torch.zeros(0), torch.zeros(0)) == 0
    assert importance_weighted_risk(torch.ones(1), torch.tensor([2.0])) == 2


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_a_strength_that_cannot_be(l2: float) -> None:
    with pytest.raises(ConfigError, match=r"ImportanceWeightedRisk\.l2"):
        ImportanceWeightedRisk(l2=l2)
