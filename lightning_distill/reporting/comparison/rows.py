"""In what runs differ, as rows of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lightning_distill.reporting.comparison.runs import ComparedRun
from lightning_distill.reporting.formatting import MISSING, duration, is_share, metric_heading, metric_value

ABSENT: Final = "-"
_LOW_IS_GOOD: Final = ("calibration_error", "mae", "mse", "rmse")
_NOTHING: Final = object()


class Row(NamedTuple):
    """One line of a comparison.

    Attributes:
        name: What is compared.
        cells: A text a run.
        best: Numbers of the runs that are best; none where that cannot be said.
    """

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


def metric_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """Metrics that two runs or more have.

    Losses and their terms have no best: with other terms or weights they measure something else.

    Args:
        runs: In the order of the columns.
    """
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    return [_metric(n, runs) for n in names if sum(n in run.metrics for run in runs) > 1]


def _metric(name: str, runs: Sequence[ComparedRun]) -> Row:
    stage, _, metric = name.rpartition("/")
    values = [run.metrics.get(name) for run in runs]
    heading = f"{stage}/{metric_heading(metric)}" if stage else metric_heading(metric)
    cells = tuple(metric_value(metric, value) for value in values)
    known = [v for v in values if v is not None]
    better = _better(name, runs)
    if better is None or len(known) < 2 or min(known) == max(known):
        return Row(heading, cells)
    best = better(known)
    # As shown: what looks the same is not told apart.
    shown = metric_value(metric, best)
    return Row(heading, cells, frozenset(i for i, cell in enumerate(cells) if cell == shown))


def _better(name: str, runs: Sequence[ComparedRun]) -> Callable[[Sequence[float]], float] | None:
    metric = name.rpartition("/")[2]
    if is_share(metric) or metric == "agreement":
        return max
    if metric in _LOW_IS_GOOD:
        return min
    modes = {run.monitor[1] for run in runs if run.monitor[0] == name}
    if metric == "loss" or len(modes) != 1:
        return None
    return min if modes == {"min"} else max


def fact_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """How large, how long, chosen by what.

    Args:
        runs: In the order of the columns.
    """
    return [
        Row("optimizer steps", tuple(_count(run.steps) for run in runs)),
        Row("parameters and buffers", tuple(_count(run.parameters) for run in runs)),
        Row("time, by file dates", tuple(_time(run.seconds) for run in runs)),
        Row("checkpoint chosen by", tuple(f"{run.monitor[0]} ({run.monitor[1]})" for run in runs)),
    ]


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None else duration(seconds)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def setting_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """Settings in which the configs differ, by keys as the command line takes them, without `init_args`.

    Args:
        runs: In the order of the columns.
    """
    rows = _rows([run.settings for run in runs])
    return [row._replace(name=row.name.replace(".init_args", "")) for row in rows]


def environment_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """What the runs were made with, where it differs.

    Args:
        runs: In the order of the columns.
    """
    return _rows([run.environment for run in runs])


def differing(sides: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of which not all sides say the same, in alphabetical order.

    Where one side has nothing and another has settings inside, only those settings are named.

    Args:
        sides: Dotted key -> value.

    >>> differing([{"a.b": 1, "a.c": 2, "d": None}, {"a.b": 1, "a.c": 3, "d.e": 4}])
    ['a.c', 'd.e']
    """
    keys = sorted({key for side in sides for key in side})
    found = []
    for key in keys:
        first, *others = (side.get(key, _NOTHING) for side in sides)
        if any(_unlike(other, first) for other in others):
            found.append(key)
    parents = {key[:i] for key in found for i, c in enumerate(key) if c == "."}
    return [k for k in found if k not in parents or any(side.get(k) not in (None, {}) for side in sides)]


def _rows(sides: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        Row(key, tuple(_text(side[key]) if key in side else ABSENT for side in sides))
        for key in differing(sides)
    ]


def _unlike(one: Any, other: Any) -> bool:
    """Whether two values differ; true is not 1, but 1 is 1.0."""
    return bool(one != other) or isinstance(one, bool) is not isinstance(other, bool)


def _text(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
