"""The arithmetic of benchmarks/cross_domain.py: gaps, errors, choices; and its page."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def module(name: str) -> Any:
    return importlib.import_module(name)


def found(pair: str, seed: int, **methods: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Method -> (accuracy, a validator, another)."""
    return [
        {
            "job": {"pair": pair, "method": method, "seed": seed},
            "accuracy": accuracy,
            "validators": {"good": good, "bad": bad},
        }
        for method, (accuracy, good, bad) in methods.items()
    ]


@pytest.fixture
def screen() -> list[dict[str, Any]]:
    ones = found("p", 1, a=(0.5, 1.0, 3.0), b=(0.7, 2.0, 2.0), c=(0.9, 3.5, 1.0))
    twos = found("p", 2, a=(0.6, 5.0, 6.0), b=(0.9, 9.0, 5.0), c=(0.8, 8.0, 4.0))
    other = found("q", 1, a=(0.2, 0.0, 1.0), b=(0.3, 1.0, 2.0), c=(0.1, -1.0, 3.0))
    return [*ones, *twos, *other]


def test_validators_are_ranked_within_a_seed(screen: list[dict[str, Any]]) -> None:
    choice = module("cross_domain_choice")
    assert choice.correlation(screen, "p", "good") == pytest.approx(1.0)
    assert choice.correlation(screen, "p", "bad") == pytest.approx((-1.0 - 0.5) / 2)


def test_regret_is_what_the_choice_costs(screen: list[dict[str, Any]]) -> None:
    choice = module("cross_domain_choice")
    assert choice.regret(screen, "p", "good") == pytest.approx(0.0)
    assert choice.regret(screen, "p", "bad") == pytest.approx(100 * (0.85 - 0.55))  # it takes `a`
    assert choice.regret(screen, "q", "bad") == pytest.approx(20.0)


def test_a_pair_has_no_say_in_its_own_validator(screen: list[dict[str, Any]]) -> None:
    choice = module("cross_domain_choice")
    turned = [
        one | {"validators": {"good": -one["validators"]["good"], "bad": one["validators"]["bad"]}}
        if one["job"]["pair"] == "q"
        else one
        for one in screen
    ]
    assert choice.recommended(turned, ["p", "q"], left_out="q") == "good"
    assert choice.recommended(screen, ["p", "q"], left_out="p") == "good"


def test_the_choice_is_by_the_mean_over_seeds_and_reads_no_accuracy(screen: list[dict[str, Any]]) -> None:
    choice = module("cross_domain_choice")
    blind = [{key: value for key, value in one.items() if key != "accuracy"} for one in screen]
    assert choice.chosen(blind, "p", "good", ["a", "b"]) == "b"
    assert choice.chosen(blind, "p", "bad", ["b", "c"]) == "b"


def test_gap_and_its_error() -> None:
    cross_domain = module("cross_domain")
    low, high, top = (np.array(x) for x in ([0.4, 0.5, 0.6], [0.8, 0.85, 0.9], [0.9, 0.9, 0.9]))
    assert cross_domain.gap_closed(low, high, top) == pytest.approx(0.35 / 0.4)
    left = [0.325 / 0.35, 0.35 / 0.4, 0.375 / 0.45]  # without the first, second, third seed
    expected = np.sqrt(2 / 3 * np.square(np.array(left) - np.mean(left)).sum())
    assert cross_domain.jackknife(low, high, top) == pytest.approx(expected)
    assert cross_domain.jackknife(low, low + 0.3, low + 0.4) == pytest.approx(0.0)


def test_every_method_can_be_made_and_labels_of_the_target_are_for_ceilings_alone() -> None:
    methods, jobs = module("cross_domain_methods"), module("cross_domain_jobs")
    for method in jobs.METHODS.values():
        assert set(method.weights) <= {"task", *method.terms()}
    ceilings = {methods.Kind.CEILING, methods.Kind.CEILING_BOTH}
    screened = module("cross_domain").screened()
    assert all(jobs.METHODS[name].kind not in ceilings for name in screened)
    assert len(screened) > 20


def test_page_has_its_marks() -> None:
    page = module("cross_domain_page")
    text = (BENCHMARKS.parent / "docs" / "cross-domain.md").read_text()
    for place in page.PLACES:
        assert all(text.count(mark) == 1 for mark in page.marks(place))
