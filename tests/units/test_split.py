"""Units and the rules that use them where each process has a part of the gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.processes import needs_fork, run_apart
from tests.units.split_ranks import POISONED, RULES, STEPS, halves, main

pytestmark = needs_fork


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("split")
    run_apart(main, folder)
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)]


def smoothed(values: list[float]) -> list[float]:
    """Debiased average with decay 1/2; the poisoned step has no part in it."""
    found, average, weight = [], 0.0, 0.0
    for step, value in enumerate(values):
        if step != POISONED:
            average, weight = (average + value) / 2, (weight + 1) / 2
        found.append(average / weight)
    return found


def test_root_mean_square_of_the_whole(ranks: list[Any]) -> None:
    squares = [
        np.mean(np.concatenate([h.double().numpy() for h in halves(step)]) ** 2) for step in range(STEPS)
    ]
    expected = [math.sqrt(value) for value in smoothed(squares)]
    for rank in ranks:
        ours = [rank["standard deviation", step][0] for step in range(STEPS)]
        assert ours == pytest.approx(expected, rel=1e-5)


def test_quantile_is_the_geometric_mean_of_those_of_the_parts(ranks: list[Any]) -> None:
    """NaN is no entry to a quantile: the poisoned step counts with what is left of it."""
    logs = [
        np.mean([math.log(np.nanquantile(h.abs().double().numpy(), 0.9)) for h in halves(step)])
        for step in range(POISONED)
    ]
    for rank in ranks:
        ours = [rank["quantile", step][0] for step in range(POISONED)]
        assert ours == pytest.approx(np.exp(smoothed(logs)).tolist(), rel=1e-5)


@pytest.mark.parametrize("name", list(RULES))
def test_processes_have_one_range_and_one_history(name: str, ranks: list[Any]) -> None:
    for step in range(STEPS):
        (first, _), (second, _) = (rank[name, step] for rank in ranks)
        assert first == second
        assert math.isfinite(first)
    one, other = (rank[name, "history"] for rank in ranks)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", list(RULES))
def test_each_process_clips_its_part_by_it(name: str, ranks: list[Any]) -> None:
    for step in range(STEPS):
        for rank, half in zip(ranks, halves(step), strict=True):
            epsilon, grad = rank[name, step]
            torch.testing.assert_close(grad, half.clamp(-epsilon, epsilon), equal_nan=True)


def test_what_is_not_finite_in_one_process_moves_no_range(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["target", POISONED][0] == rank["target", POISONED + 1][0]
