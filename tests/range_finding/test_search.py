"""What a range is searched by: quantiles, candidates, the order of trials, the choice among them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.range_finding.finder import recorded
from lightning_distill.range_finding.quantiles import LEVELS, QuantileRecorder, Quantiles
from lightning_distill.range_finding.search import JointSearch, Ladder, RangeSearch
from lightning_distill.range_finding.trials import Choice, Goal, Trial, plateaus

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
SGD = {"lr": 0.1, "momentum": 0.9}
GOAL = Goal("val/accuracy", "max")


def trial(epsilon: float | None, value: float | None, rate: float = 1.0, loss: float | None = None) -> Trial:
    return Trial(Choice(epsilon, rate), 0.1 * rate, value, loss)


# -- quantiles ----------------------------------------------------------------------------------------------


def reference(steps: list[np.ndarray]) -> np.ndarray:
    """Median over steps of the quantiles of each step's finite entries other than 0."""
    rows = []
    for entries in steps:
        size = np.abs(entries.astype(np.float64))
        size = size[np.isfinite(size)]
        rows.append(np.quantile(size[size > 0], LEVELS))
    return np.median(np.stack(rows), axis=0)


def test_quantiles_are_those_of_numpy_whatever_is_not_finite() -> None:
    rng, recorder, steps = np.random.default_rng(0), QuantileRecorder(), []
    for _ in range(5):
        entries = rng.standard_t(2, 900).astype(np.float32)
        entries[:100] = 0
        entries[100:103] = [np.nan, np.inf, -np.inf]
        steps.append(entries)
        recorder.add({"a": [torch.from_numpy(entries[:500]).view(20, 25), torch.from_numpy(entries[500:])]})
    found = recorder.quantiles()["a"]
    np.testing.assert_allclose(found.values, reference(steps), rtol=1e-5)
    assert found.zero_share == pytest.approx(100 / 897, rel=1e-5)
    assert found.steps == 5


def test_a_few_exploded_steps_do_not_move_quantiles() -> None:
    recorder = QuantileRecorder()
    for step in range(9):
        recorder.add({"a": [torch.linspace(0.1, 1, 50) * (1e6 if step in (2, 7) else 1)]})
    assert recorder.quantiles()["a"].values[-1] == pytest.approx(1.0)


def test_of_a_training_that_exploded_the_beginning_counts() -> None:
    recorder = QuantileRecorder()
    for step in range(9):
        recorder.add({"a": [torch.linspace(0.1, 1, 50) * 10.0**step]})
    stopped = Trial(Choice(), 0.1, None)
    assert recorded(recorder, stopped)["a"].values[-1] == pytest.approx((1 + 10) / 2)
    assert recorded(recorder, stopped)["a"].steps == 2
    assert recorded(recorder, trial(None, 0.5))["a"].steps == 9


def test_a_group_of_zeros_or_nan_is_left_out() -> None:
    recorder = QuantileRecorder()
    recorder.add({"zero": [torch.zeros(4)], "nan": [torch.full((4,), torch.nan)], "none": [torch.empty(0)]})
    assert recorder.quantiles() == {}


@given(st.lists(st.floats(-20, 5), min_size=11, max_size=11, unique=True), st.floats(0.01, 1.0))
def test_level_and_quantile_are_each_others_inverse(logs: list[float], level: float) -> None:
    found = Quantiles(tuple(float(x) for x in 10.0 ** np.sort(logs)), 0.0, 1)
    assert found.values[0] <= found.at(level) * (1 + 1e-9) <= found.values[-1] * (1 + 1e-8)
    if all(high / low > 1.001 for low, high in itertools.pairwise(found.values)):
        assert found.level_of(found.at(level)) == pytest.approx(level, abs=1e-6)


# -- what is worth a trial ----------------------------------------------------------------------------------

QUANTILES = st.lists(st.floats(-12, 3), min_size=11, max_size=11).map(
    lambda logs: Quantiles(tuple(float(x) for x in 10.0 ** np.sort(logs)), 0.0, 1)
)


@given(QUANTILES, st.sampled_from([ADAM, SGD]))
def test_ranges_fall_and_lie_where_they_can_matter(quantiles: Quantiles, optimizer: dict[str, Any]) -> None:
    rungs = Ladder.of_gradients(quantiles, optimizer).rungs
    ranges = [c.epsilon or 0.0 for c in rungs]
    assert 1 <= len(rungs) <= 5
    assert all(low < high for high, low in itertools.pairwise(ranges))
    assert ranges[0] <= quantiles.values[-1] * (1 + 1e-9)
    assert ranges[-1] > 0


def test_signs_only_lies_far_below_the_median_and_above_adams_epsilon() -> None:
    typical = Quantiles(tuple(10.0**i for i in range(-6, 5)), 0.0, 1)
    assert Ladder.of_gradients(typical, ADAM).rungs[-1] == Choice(1e-4, why="signs only")
    tiny = Quantiles(tuple(1e-4 * 10.0 ** (i / 10) for i in range(11)), 0.0, 1)
    last = Ladder.of_gradients(tiny, ADAM).rungs[-1].epsilon
    assert last is not None
    assert last >= 100 * 1e-8
    assert all(c.why != "signs only" for c in Ladder.of_gradients(typical, SGD).rungs)
    assert all(c.why != "signs only" for c in Ladder.of_features(typical).rungs)


@pytest.mark.parametrize("name", ["Adafactor", "Adagrad", "Adam", "AdamW", "RMSprop"])
def test_optimizers_of_torch_that_divide_by_the_size_get_signs_only(name: str) -> None:
    """Adafactor's `eps` is a pair."""
    defaults = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(2, 2))]).defaults
    typical = Quantiles(tuple(10.0**i for i in range(-6, 5)), 0.0, 1)
    assert Ladder.of_gradients(typical, defaults).rungs[-1].why == "signs only"


def test_all_rungs_are_tried_once_at_one_rate() -> None:
    ladder = Ladder.of_features(Quantiles(tuple(10.0**i for i in range(11)), 0.0, 1))
    search, done = RangeSearch(ladder), [trial(None, 0.5)]
    while (choice := search.following(done)) is not None:
        done.append(Trial(choice, 0.1, 0.5))
    assert [t.choice.epsilon for t in done[1:3]] == [ladder.rungs[2].epsilon, ladder.rungs[3].epsilon]
    assert sorted(t.choice.epsilon or 0 for t in done[1:]) == sorted(c.epsilon or 0 for c in ladder.rungs)
    assert {t.choice.rate for t in done} == {1.0}


@given(QUANTILES, st.floats(-12, 3), st.sampled_from([ADAM, SGD]))
def test_the_users_own_range_has_its_place_among_the_others(
    quantiles: Quantiles, log: float, optimizer: dict[str, Any]
) -> None:
    before = Ladder.of_gradients(quantiles, optimizer)
    ladder = before.including(10.0**log)
    ranges = [c.epsilon or 0.0 for c in ladder.choices]
    assert [c.why for c in ladder.choices].count("yours") == 1
    assert ladder.own == Choice(10.0**log, why="yours")
    assert all(low < high for high, low in itertools.pairwise(ranges))
    far = [c for c in before.rungs if abs((c.epsilon or 0.0) / 10.0**log - 1) > 0.011]
    assert set(far) <= set(ladder.choices)
    assert len(ladder.choices) <= len(before.rungs) + 1
    assert (ladder.first, ladder.step_follows) == (before.first, before.step_follows)
    assert before.choices == before.rungs


@given(QUANTILES, st.floats(-12, 3), st.integers(1, 8), st.booleans(), st.sampled_from([ADAM, SGD]))
def test_the_users_own_range_is_tried_first_and_once(
    quantiles: Quantiles, log: float, trials: int, joint: bool, optimizer: dict[str, Any]
) -> None:
    ladder = Ladder.of_gradients(quantiles, optimizer).including(10.0**log)
    search = JointSearch(ladder, GOAL, trials) if joint else RangeSearch(ladder)
    done = [trial(None, 0.5)]
    while len(done) <= trials and (choice := search.following(done)) is not None:
        done.append(Trial(choice, 0.1 * choice.rate, 0.1 * len(done)))
    assert done[1].choice == ladder.own
    assert len({t.choice for t in done}) == len(done)
    if not joint and trials == 8:
        assert {t.choice for t in done[1:]} == set(ladder.choices)


def test_after_the_users_own_range_a_joint_search_begins_as_without() -> None:
    ladder = Ladder.of_gradients(Quantiles(tuple(10.0 ** (i - 8) for i in range(11)), 0.0, 1), ADAM)
    for value in (0.5, None):
        plain = JointSearch(ladder, GOAL, 5).following([trial(None, value)])
        search = JointSearch(ladder.including(0.03), GOAL, 5)
        assert search.following([trial(None, value), trial(0.03, 0.4)]) == plain


def climbed(optimizer: dict[str, Any], value: Any, trials: int = 5) -> list[Trial]:
    """A joint search where the value is a function of range and rate."""
    ladder = Ladder.of_gradients(Quantiles(tuple(10.0 ** (i - 8) for i in range(11)), 0.0, 1), optimizer)
    search, done = JointSearch(ladder, GOAL, trials), [trial(None, value(None, 1.0))]
    while len(done) <= trials and (choice := search.following(done)) is not None:
        done.append(Trial(choice, 0.1 * choice.rate, value(choice.epsilon, choice.rate)))
    return done


@pytest.mark.parametrize("optimizer", [ADAM, SGD])
@pytest.mark.parametrize("target", [1 / 64, 1 / 4, 4, 64])
def test_a_joint_search_walks_towards_better_rates(optimizer: dict[str, Any], target: float) -> None:
    done = climbed(optimizer, lambda epsilon, rate: 1 - 0.05 * abs(np.log(rate / target)))
    assert len(done) == 6
    nearest = min(abs(np.log(t.choice.rate / target)) for t in done)
    assert nearest <= np.log(4) + 1e-9
    assert len({t.choice for t in done}) == 6


@pytest.mark.parametrize("optimizer", [ADAM, SGD])
def test_where_training_diverged_more_is_clipped_at_first(optimizer: dict[str, Any]) -> None:
    ladder = Ladder.of_gradients(Quantiles(tuple(10.0 ** (i - 8) for i in range(11)), 0.0, 1), optimizer)
    first, lower = (JointSearch(ladder, GOAL, 5).following([trial(None, value)]) for value in (0.5, None))
    assert first is not None
    assert lower is not None
    assert first.epsilon is not None
    assert lower.epsilon is not None
    assert lower.epsilon < first.epsilon
    assert first.rate == lower.rate == 1.0


def test_where_nothing_trains_a_joint_search_goes_far_down() -> None:
    done = climbed(SGD, lambda epsilon, rate: None if rate > 0.1 else 0.9)
    assert done[2].choice.rate == 1 / 16
    assert GOAL.best(done).value == 0.9


@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_under_sgd_the_step_of_a_clipped_entry_stays_when_the_range_changes(trials: int, random: Any) -> None:
    done = climbed(SGD, lambda epsilon, rate: 0.1 + random.random() if epsilon else 0.0, trials)
    for i in range(2, len(done)):
        best, new = GOAL.best(done[:i]).choice, done[i].choice
        assert best.epsilon is not None
        assert new.epsilon is not None
        same_range, same_step = new.epsilon == best.epsilon, new.rate * new.epsilon / best.epsilon
        assert same_range or same_step == pytest.approx(best.rate)


@given(st.integers(1, 8), st.sampled_from([ADAM, SGD]), st.randoms(use_true_random=False))
def test_a_joint_search_never_repeats_itself(trials: int, optimizer: dict[str, Any], random: Any) -> None:
    done = climbed(optimizer, lambda epsilon, rate: random.choice([None, random.random()]), trials)
    assert len({(t.choice.epsilon, round(np.log(t.choice.rate), 6)) for t in done}) == len(done)


# -- what is chosen -----------------------------------------------------------------------------------------


def test_no_clip_is_chosen_where_no_range_is_better() -> None:
    trials = [trial(None, 0.950), trial(1e-2, 0.952), trial(1e-3, 0.90)]
    assert GOAL.chosen(trials) is trials[0]
    assert GOAL.best(trials) is trials[1]


def test_among_the_same_the_widest_range_is_chosen_at_the_best_rate() -> None:
    trials = [trial(None, 0.5), trial(1e-3, 0.95), trial(1e-1, 0.949), trial(1.0, 0.95, rate=4.0)]
    assert GOAL.chosen(trials) is trials[2]


def test_less_is_better_where_asked_and_a_stopped_training_is_worst() -> None:
    goal = Goal("val/loss", "min")
    trials = [trial(None, None), trial(1.0, 0.8), trial(0.1, 0.3)]
    assert goal.chosen(trials) is trials[2]
    assert goal.best(trials[:1]).value is None


def test_plateaus_are_told_apart_by_rate_and_broken_by_what_differs() -> None:
    trials = [trial(None, 0.6), trial(1.0, 0.95), trial(0.1, 0.951), trial(0.01, 0.949), trial(1e-3, 0.7)]
    found = plateaus([*trials, trial(1.0, 0.95, rate=4.0)], GOAL)
    assert [(p.low, p.high) for p in found] == [(0.01, 1.0)]
    assert str(found[0]).startswith("any range from 0.01 to 1 gives the same at a learning rate of 0.1")
    upper = plateaus([trial(None, 0.95), trial(1.0, 0.95), trial(0.1, None), trial(0.01, 0.95)], GOAL)
    assert [(p.low, p.high) for p in upper] == [(1.0, None)]
    assert "no clip at all" in str(upper[0])
