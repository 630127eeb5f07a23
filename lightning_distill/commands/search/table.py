"""What a search has found: on the console, as JSON, as words of `fit`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_distill.commands.search.space import SearchSpace
from lightning_distill.commands.search.study import FOLDER, STOPPED, VALUES
from lightning_distill.errors import printable

if TYPE_CHECKING:
    import optuna
    from rich.table import Table


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Options of `fit` that set these values.

    >>> as_words({"model.weights.kd": 0.5, "model.clip_rule": {"class_path": "NormClip"}, "seed": "a b"})
    ['--model.weights.kd=0.5', '--model.clip_rule={"class_path": "NormClip"}', '--seed=a b']
    """
    return [f"--{name}={x if isinstance(x, str) else json.dumps(x)}" for name, x in values.items()]


def summary_of(space: SearchSpace, trials: Sequence[optuna.trial.FrozenTrial]) -> dict[str, Any]:
    """All trials, for JSON.

    Args:
        space: That was searched.
        trials: Those that came to an end.
    """
    return {
        "metric": space.metric,
        "mode": space.mode,
        "trials": [
            {
                "folder": trial.user_attrs.get(FOLDER),
                "state": trial.state.name.lower(),
                "value": value_of(trial),
                "values": trial.user_attrs.get(VALUES, {}),
                "stopped": trial.user_attrs.get(STOPPED, ""),
            }
            for trial in trials
        ],
    }


def trials_table(space: SearchSpace, trials: Sequence[optuna.trial.FrozenTrial]) -> Table:
    """The trials, the best first, and after them those that ended early.

    Args:
        space: That was searched.
        trials: Those that came to an end.
    """
    from rich.markup import escape
    from rich.table import Table

    varied = space.varied()
    heads = ["run", printable(space.metric), *(name.rpartition(".")[2] for name in varied), ""]
    if len(set(heads)) < len(heads):
        heads = ["run", printable(space.metric), *varied, ""]
    table = Table(*map(escape, heads), title="Trials", title_justify="left")
    for trial in sorted(trials, key=lambda t: _rank(t, space.mode)):
        value, values = value_of(trial), trial.user_attrs.get(VALUES, {})
        table.add_row(
            escape(str(trial.user_attrs.get(FOLDER, ""))),
            "-" if value is None else f"{value:.4f}",
            *(escape(printable(_short(values.get(name)), 40)) for name in varied),
            escape(printable(trial.user_attrs.get(STOPPED, ""), 80)),
        )
    return table


def value_of(trial: optuna.trial.FrozenTrial) -> float | None:
    """The best value of a trial; of one that ended early, the last that it reported."""
    value = trial.value
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    return value if value is not None and math.isfinite(value) else None


def _rank(trial: optuna.trial.FrozenTrial, mode: str) -> tuple[bool, float]:
    value = value_of(trial)
    worth = math.inf if value is None else -value if mode == "max" else value
    return trial.state.name != "COMPLETE", worth


def _short(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )
