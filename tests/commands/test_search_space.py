"""The search space of a W&B sweep file, and what Optuna makes of it."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from lightning_distill.commands.search.distributions import Choice, Range, distribution
from lightning_distill.commands.search.space import SearchSpace, read_space
from lightning_distill.commands.search.study import FOLDER, open_study, suggested
from lightning_distill.commands.search.trainer import check_trainer
from lightning_distill.commands.studies import ended
from lightning_distill.errors import ConfigError

SPACE: dict[str, Any] = {
    "method": "bayes",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}},
}


def write(edit: Callable[[dict[str, Any]], Any]) -> Path:
    """The space, changed."""
    space = copy.deepcopy(SPACE)
    edit(space)
    Path("space.yaml").write_text(yaml.safe_dump(space))
    return Path("space.yaml")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"values": [1, 2]}, Choice((1, 2))),
        ({"value": "a"}, Choice(("a",))),
        ({"min": 1, "max": 4}, Range(1, 4, whole=True)),
        ({"min": 1, "max": 4.5}, Range(1, 4.5)),
        ({"distribution": "q_uniform", "min": 0, "max": 8, "q": 2}, Range(0, 8, step=2)),
        ({"distribution": "q_uniform", "min": 0, "max": 8}, Range(0, 8, step=1)),
        ({"distribution": "int_uniform", "min": 0, "max": 8}, Range(0, 8, whole=True)),
        (
            {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8},
            Range(8, 64, log=True, step=8),
        ),
        ({"distribution": "categorical", "values": [None, {"a": 1}]}, Choice((None, {"a": 1}))),
    ],
)
def test_distributions_are_those_of_wandb(given: dict[str, Any], made: Any) -> None:
    found = distribution("p", given, "f")
    assert found == made
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    value = found.suggested(trial, "p")
    if isinstance(made, Choice):
        assert value in made.values
        return
    assert made.low <= value <= made.high
    assert made.step is None or value % made.step == 0
    assert isinstance(value, int) or not made.whole


@pytest.mark.parametrize(
    ("kind", "low", "high", "q"),
    [
        ("q_uniform", 1, 10, 4),
        ("q_uniform", 8, 32, 8),
        ("q_uniform", 0.1, 0.9, 0.25),
        ("q_uniform", 3, 9, None),
        ("q_log_uniform_values", 5, 100, 8),
        ("q_log_uniform_values", 0.5, 4.0, 0.5),
    ],
)
def test_rounded_values_follow_wandb(kind: str, low: float, high: float, q: float | None) -> None:
    """The rule of W&B's own `sweeps`: round(x / q) * q, a whole number where q is one; x is Optuna's."""
    found = distribution(
        "p", {"distribution": kind, "min": low, "max": high, **({} if q is None else {"q": q})}, "f"
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    step, values = 1 if q is None else q, []
    for _ in range(60):
        trial = study.ask()
        values.append(found.suggested(trial, "p"))
        assert low <= trial.params["p"] <= high
        assert values[-1] == np.round(trial.params["p"] / step) * step
        assert type(values[-1]) is type(step)
    assert found.ends() == (np.round(low / step) * step, np.round(high / step) * step)
    assert found.ends() == (min(values), max(values))


def points_made(study: optuna.Study, space: SearchSpace, most: int, cut: int | None = None) -> list[Any]:
    """Points of the trials that come to their end; `cut` is the number of one that is interrupted."""
    made: list[Any] = []

    def train(trial: optuna.Trial) -> float:
        values = tuple(suggested(space, trial).values())
        trial.set_user_attr(FOLDER, trial.user_attrs.get(FOLDER, f"trial-{trial.number}"))
        if trial.number == cut:
            raise KeyboardInterrupt
        made.append(values)
        return 0.0

    with contextlib.suppress(KeyboardInterrupt):
        study.optimize(train, n_trials=most)
    return made


@pytest.mark.parametrize("cut", [None, 3, 7, 8])
@pytest.mark.parametrize("first", [4, 9])
def test_a_grid_in_several_sessions_has_each_point_once(
    cut: int | None, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = {"a": {"values": [1, 2, 3]}, "b": {"values": [10, 20, 30]}}
    space = read_space(write(lambda s: s.update(method="grid", parameters=grid)))
    made: list[Any] = []
    for most in (first, 9, 9):
        study = open_study(space, tmp_path / "study.db", most)  # another seed each time
        if len(ended(study)) < 9:
            made += points_made(study, space, min(most, 9 - len(ended(study))), cut)
    assert sorted(made) == sorted(itertools.product([1, 2, 3], [10, 20, 30]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distribution": "normal", "mu": 0}, "the key|mu"),
        ({"distribution": "log_uniform", "min": -3, "max": 0}, "log_uniform_values"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "did you mean 'uniform'"),
        ({"parameters": {"a": {"value": 1}}}, "dotted names"),
        ({"min": "1e-3", "max": 1}, "YAML takes 1e-3 for a text"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "above 0"),
        ({"min": 2, "max": 1}, "min < max"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "whole numbers"),
        ({"values": []}, "values"),
        ({}, "value, values"),
        (3, "value, values"),
    ],
)
def test_what_optuna_or_wandb_would_not_understand_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"f, parameters\.model\.lr: .*({words})"):
        distribution("model.lr", given, "f")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s.update(metod="x"), "did you mean 'method'"),
        (lambda s: s.update(method="tpe"), "bayes, random, grid"),
        (lambda s: s["metric"].update(goal="max"), "minimize or maximize"),
        (lambda s: s.pop("metric"), r"metric\.name"),
        (lambda s: s.update(parameters={}), "at least one"),
        (lambda s: s.update(early_terminate={"type": "envelope"}), "hyperband"),
        (lambda s: s.update(early_terminate={"type": "hyperband"}), "min_iter"),
        (lambda s: s.update(early_terminate={"type": "hyperband", "min_iter": 0}), "from 1"),
        (lambda s: s.update(early_terminate={"type": "hyperband", "min_iter": 1, "etta": 2}), "'eta'"),
        (
            lambda s: s.update(early_terminate={"type": "hyperband", "min_iter": 3, "max_iter": 2}),
            "min_iter 3, max_iter 2",
        ),
        (lambda s: s.update(command=["${program}"]), "fit"),
        (lambda s: s.update(method="grid"), "a range, under method grid"),
    ],
)
def test_a_space_with_a_mistake(
    edit: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        read_space(write(edit))


def test_pruners_and_samplers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's words are those of Optuna's classes."""
    monkeypatch.chdir(tmp_path)
    hyperband = {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}
    values = {"p": {"values": [1, 2]}}
    cases: list[tuple[dict[str, Any], type, type]] = [
        ({}, optuna.samplers.TPESampler, optuna.pruners.MedianPruner),
        (
            {"method": "random", "early_terminate": hyperband},
            optuna.samplers.RandomSampler,
            optuna.pruners.HyperbandPruner,
        ),
        ({"method": "grid", "parameters": values}, optuna.samplers.GridSampler, optuna.pruners.MedianPruner),
    ]
    for number, (change, sampler, pruner) in enumerate(cases):
        study = open_study(read_space(write(lambda s, c=change: s.update(c))), tmp_path / f"{number}.db", 0)
        assert (type(study.sampler), type(study.pruner)) == (sampler, pruner)
        if pruner is optuna.pruners.HyperbandPruner:
            kept = vars(study.pruner)
            told = [kept[f"_{name}"] for name in ("min_resource", "max_resource", "reduction_factor")]
            assert told == [3, 27, 3]


@pytest.mark.parametrize("devices", [1, "1", "auto", [1], [0], "[1]", "1,"])
def test_one_device_however_it_is_named(devices: Any) -> None:
    check_trainer({"devices": devices, "num_nodes": 1, "limit_val_batches": None, "fast_dev_run": False})


@pytest.mark.parametrize("devices", [2, "2", -1, "-1", [0, 1], "0,1", [-1], []])
def test_several_devices(devices: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        check_trainer({"devices": devices, "num_nodes": 1})
