"""Distances between samples whose distributions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.domain_distance import distinct_rows, mmd_test, proxy_a_distance
from lightning_distill.errors import ConfigError
from lightning_distill.losses.maximum_mean_discrepancy import maximum_mean_discrepancy

WIDER = 1.3
"""How much more the distance varies than its standard error says, since folds share rows."""


def normal(seed: int, rows: int, dim: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    drawn: NDArray[np.float64] = np.random.default_rng(seed).normal(mean, std, (rows, dim))
    return torch.from_numpy(drawn)


# -- the proxy A-distance -------------------------------------------------------------------------------


def test_one_distribution_is_at_distance_0_on_average() -> None:
    found = [proxy_a_distance(normal(2 * i, 100, 4), normal(2 * i + 1, 100, 4), i) for i in range(20)]
    raw = [2 * (1 - 2 * one.error) for one in found]
    assert abs(np.mean(raw)) < 4 * WIDER * found[0].standard_error / math.sqrt(20)
    assert np.std(raw) < 2 * found[0].standard_error
    assert all(one.distance == max(0.0, value) for one, value in zip(found, raw, strict=True))


def test_domains_that_do_not_touch_are_at_distance_2() -> None:
    found = proxy_a_distance(normal(0, 200, 3), normal(1, 150, 3) + 20)
    assert (found.distance, found.error, found.rows) == (2.0, 0.0, 150)
    assert 0 < found.standard_error < 0.03


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0])
def test_two_gaussians(gap: float) -> None:
    """The best classifier of N(0, 1) and N(gap, 1) errs with Phi(-gap / 2), and it is linear."""
    error = 0.5 * math.erfc(gap / 2 / math.sqrt(2))
    found = proxy_a_distance(normal(0, 300, 1), normal(1, 300, 1, gap))
    assert abs(found.distance - 2 * (1 - 2 * error)) < 4 * WIDER * found.standard_error


def test_the_standard_error_is_that_of_a_share() -> None:
    found = proxy_a_distance(normal(0, 100, 2), normal(1, 100, 2, 0.5))
    guarded = (200 * found.error + 1) / 202
    assert found.standard_error == pytest.approx(4 * math.sqrt(guarded * (1 - guarded) / 200))


def test_only_held_out_rows_count() -> None:
    """With more features than rows any labels can be learned by heart, which is no distance."""
    found = [proxy_a_distance(normal(2 * i, 40, 400), normal(2 * i + 1, 40, 400)) for i in range(10)]
    raw = [2 * (1 - 2 * one.error) for one in found]
    assert abs(np.mean(raw)) < 4 * WIDER * found[0].standard_error / math.sqrt(10)


def test_a_gap_in_one_of_many_features_is_found() -> None:
    """More features than rows hide a part of it, so the distance is too small, but far from chance."""
    source, target = normal(0, 100, 300), normal(1, 100, 300)
    target[:, 7] += 20
    found = proxy_a_distance(source, target)
    assert 4 * WIDER * proxy_a_distance(source, normal(2, 100, 300)).standard_error < found.distance <= 2


def test_units_of_features_do_not_matter() -> None:
    source, target = normal(0, 80, 3), normal(1, 80, 3, 0.4)
    scale = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    one, other = proxy_a_distance(source, target), proxy_a_distance(source * scale + 3, target * scale + 3)
    assert one.error == other.error


def test_features_that_do_not_vary() -> None:
    """Every row lies on the border: half of them are wrong."""
    same = torch.ones(30, 4)
    assert (found := proxy_a_distance(same, same)).error == 0.5
    assert found.distance == 0.0
    mixed = torch.cat([normal(0, 60, 1), torch.full((60, 1), 1e8, dtype=torch.float64)], dim=1)
    assert proxy_a_distance(mixed[:30], mixed[30:] + torch.tensor([30.0, 0.0])).distance == 2.0


def test_the_classifier_is_the_ridge_of_least_leave_one_out_error() -> None:
    """Against a penalised regression that is fitted anew without each row, in its primal form."""
    source, target = normal(0, 20, 3).numpy(), normal(1, 20, 3, 0.7).numpy()
    found = proxy_a_distance(torch.from_numpy(source), torch.from_numpy(target), seed=3)
    assert found.error == pytest.approx(_reference(source, target, seed=3))


def _reference(source: NDArray[np.float64], target: NDArray[np.float64], seed: int) -> float:
    from lightning_distill.randomness import generator

    orders = [generator(seed, "domain distance", side).permutation(20) for side in ("source", "target")]
    x = np.concatenate([source[orders[0]], target[orders[1]]])
    y, fold, wrong = np.repeat([-1.0, 1.0], 20), np.tile(np.arange(20) % 5, 2), 0

    def weights(x: NDArray[np.float64], y: NDArray[np.float64], c: float) -> NDArray[np.float64]:
        solved: NDArray[np.float64] = np.linalg.solve(x.T @ x + c * np.eye(x.shape[1]), x.T @ y)
        return solved

    for held_out in range(5):
        seen, own = x[fold != held_out], y[fold != held_out]
        mean, std = seen.mean(0), seen.std(0)
        seen = (seen - mean) / std
        penalties = np.logspace(-3, 4, 8) * (seen**2).sum(1).mean()
        others = [np.arange(len(seen)) != row for row in range(len(seen))]
        left_out = [
            np.mean([(own[~k] - seen[~k] @ weights(seen[k], own[k], c)).item() ** 2 for k in others])
            for c in penalties
        ]
        best = weights(seen, own, penalties[np.argmin(left_out)])
        wrong += ((x[fold == held_out] - mean) / std @ best * y[fold == held_out] < 0).sum()
    return float(wrong / 40)


# -- the MMD test ---------------------------------------------------------------------------------------


def test_the_p_value_of_one_distribution_is_small_as_rarely_as_it_says() -> None:
    small = sum(mmd_test(normal(2 * i, 25, 3), normal(2 * i + 1, 30, 3), i).p_value <= 0.1 for i in range(20))
    assert small <= 7  # by chance more in 1 of 2000 cases


def test_a_shift_is_found_and_its_value_is_that_of_the_term() -> None:
    source, target = normal(0, 40, 3), normal(1, 50, 3, 1.0)
    found = mmd_test(source, target)
    assert found.p_value == 0.01
    assert found.value == maximum_mean_discrepancy(source, target, unbiased=True).item()
    assert found.rows == 40


def test_what_a_linear_classifier_cannot_tell() -> None:
    """Equal means, other spread: no plane tells the two apart, the MMD does."""
    source, target = normal(0, 150, 2), normal(1, 150, 2, std=3.0)
    assert mmd_test(source, target).p_value == 0.01
    distance = proxy_a_distance(source, target)
    assert distance.distance < 4 * WIDER * distance.standard_error


def test_rows_that_are_all_alike_do_not_differ() -> None:
    assert mmd_test(torch.ones(10, 2), torch.ones(12, 2)).p_value == 1.0


# -- both -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [proxy_a_distance, mmd_test])
def test_the_same_seed_gives_the_same_and_no_random_state_moves(measure) -> None:  # type: ignore[no-untyped-def]
    source, target = normal(0, 30, 3), normal(1, 30, 3, 0.5)
    torch.manual_seed(1)
    before, theirs = torch.get_rng_state(), np.random.get_state()[1]
    assert measure(source, target, 7) == measure(source, target, 7)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(theirs, np.random.get_state()[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", [proxy_a_distance, mmd_test])
def test_half_precision_and_gradients(measure) -> None:  # type: ignore[no-untyped-def]
    source, target = normal(0, 20, 3).bfloat16().requires_grad_(), normal(1, 20, 3, 1.0).bfloat16()
    assert measure(source, target) == measure(source.detach().double(), target.double())


@pytest.mark.parametrize("measure", [proxy_a_distance, mmd_test])
@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (torch.zeros(9, 3), torch.zeros(9, 4), "equally wide"),
        (torch.zeros(9), torch.zeros(9), "a row a sample"),
        (torch.zeros(9, 3), torch.zeros(1, 3), "9 and 1 rows"),
        (torch.zeros(9, 3), torch.full((9, 3), math.nan), "not finite"),
    ],
)
def test_what_cannot_be_measured(measure, source: Tensor, target: Tensor, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=told):
        measure(source, target)


def test_copies_count_once() -> None:
    x = normal(0, 10, 4)
    noisy = x[[1, 3, 3]] * (1 + 1e-7)
    assert torch.equal(distinct_rows(torch.cat([x, noisy])), x)
    assert len(distinct_rows(torch.ones(5, 2))) == 1
    assert len(distinct_rows(torch.empty(0, 2))) == 0
    far = torch.cat([x, x[:2]]) + 1e6
    assert len(distinct_rows(far)) == 10
