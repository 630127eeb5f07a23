"""The search space of a W&B sweep file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lightning_distill.commands.search.distributions import Choice, Distribution, distribution
from lightning_distill.errors import ConfigError, nearest

_KEYS: Final = (
    "command",
    "description",
    "early_terminate",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
)
_METHODS: Final = ("bayes", "random", "grid")
_GOALS: Final = {"minimize": "min", "maximize": "max"}
_STOPPING: Final = ("type", "min_iter", "max_iter", "eta", "s", "strict")


@dataclass(frozen=True)
class Stopping:
    """W&B's `early_terminate` of type hyperband.

    Attributes:
        first: Validations after which a trial may be stopped first.
        last: Validations of a whole trial; None where only `first` is given.
        eta: Of so many trials one goes on.
        brackets: W&B's `s`; None where it is not given.
    """

    first: int | None = None
    last: int | None = None
    eta: int = 3
    brackets: int | None = None


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep file says.

    Attributes:
        file: It.
        method: bayes, random or grid.
        metric: To be as good as can be.
        mode: "min" or "max".
        parameters: Option of `fit`, dotted -> its values.
        stopping: When a trial ends early; None where the file does not say.
        words: Of `fit`, that its `command` has before the parameters.
        trials: Its `run_cap`.
    """

    file: Path
    method: str
    metric: str
    mode: str
    parameters: dict[str, Distribution]
    stopping: Stopping | None
    words: tuple[str, ...]
    trials: int | None

    @property
    def grid(self) -> dict[str, tuple[Any, ...]]:
        """All values of every parameter.

        Raises:
            ConfigError: If there is no end of them.
        """
        found = {name: values.choices() for name, values in self.parameters.items()}
        endless = [name for name, values in found.items() if values is None]
        if endless:
            raise ConfigError(
                where=f"{self.file}, parameters.{endless[0]}",
                found="a range, under method grid",
                expected="values",
                fix="list the values, or take method bayes or random",
            )
        return {name: values for name, values in found.items() if values is not None}

    def varied(self) -> list[str]:
        """Names of the parameters that are no constants."""
        return [
            name
            for name, values in self.parameters.items()
            if not isinstance(values, Choice) or len(values.values) > 1
        ]


def read_space(file: Path) -> SearchSpace:
    """Read a sweep file, as `wandb sweep` takes it.

    Args:
        file: YAML.

    Raises:
        ConfigError: If it cannot be read, or says what `search` does not understand.
    """
    import yaml  # type: ignore[import-untyped]

    from lightning_distill.security.safe_yaml import load_yaml

    try:
        given = load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _error(file, error, "a W&B sweep in YAML", "correct the path or the file") from error
    if not isinstance(given, dict):
        raise _error(file, type(given).__name__, "keys such as method and parameters", "see configs/sweeps")
    _check_keys(given, _KEYS, str(file))
    method, metric = given.get("method"), given.get("metric")
    if method not in _METHODS:
        raise _error(file, f"method {method!r}", ", ".join(_METHODS), "name one of them")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise _error(file, f"metric {metric!r}", "a metric with name and goal", "add metric.name")
    goal = metric.get("goal", "minimize")
    if goal not in _GOALS:
        raise _error(file, f"metric.goal {goal!r}", " or ".join(_GOALS), "name one of them")
    parameters = given.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise _error(file, f"parameters {parameters!r}", "at least one parameter", "add one")
    space = SearchSpace(
        file,
        method,
        metric["name"],
        _GOALS[goal],
        {str(name): distribution(str(name), values, str(file)) for name, values in parameters.items()},
        _stopping(given.get("early_terminate"), file),
        _words(given.get("command"), file),
        _count(given.get("run_cap"), f"{file}, run_cap"),
    )
    if method == "grid":
        _ = space.grid
    return space


def _stopping(given: Any, file: Path) -> Stopping | None:
    if given is None:
        return None
    where = f"{file}, early_terminate"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise _error(where, repr(given), "type: hyperband", "take hyperband, or leave it out")
    _check_keys(given, _STOPPING, where)
    if "min_iter" not in given and "max_iter" not in given:
        raise _error(where, "neither min_iter nor max_iter", "one of them", "add min_iter, in validations")
    first, last, brackets = (_count(given.get(k), f"{where}.{k}") for k in ("min_iter", "max_iter", "s"))
    eta = _count(given.get("eta"), f"{where}.eta") or 3
    if first is not None and last is not None and first > last:
        found = f"min_iter {first}, max_iter {last}"
        raise _error(where, found, "min_iter up to max_iter", "correct one of them, or leave it out")
    if eta < 2:
        raise _error(f"{where}.eta", eta, "2 or more", "leave it out for 3")
    return Stopping(first, last, eta, brackets)


def _count(given: Any, where: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise _error(where, repr(given), "a whole number from 1", "correct it, or leave it out")
    return given


def _words(command: Any, file: Path) -> tuple[str, ...]:
    """What stands between `fit` and the parameters."""
    if command is None:
        return ()
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "fit" not in words:
        raise _error(f"{file}, command", command, "a list with the word fit in it", "see configs/sweeps")
    return tuple(word for word in words[words.index("fit") + 1 :] if not word.startswith("${"))


def _check_keys(given: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            fix = "leave it out" + nearest(str(key), known)
            raise _error(where, f"the key {key!r}", f"one of {', '.join(known)}", fix)


def _error(where: object, found: object, expected: str, fix: str) -> ConfigError:
    return ConfigError(where=where, found=found, expected=expected, fix=fix)
