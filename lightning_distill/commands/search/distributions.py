"""Where the values of one parameter of a sweep come from."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.errors import ConfigError, nearest

if TYPE_CHECKING:
    import optuna


class Distribution(ABC):
    """Values of one parameter."""

    @abstractmethod
    def suggested(self, trial: optuna.Trial, name: str) -> Any:
        """The value for a trial.

        Args:
            trial: Of an Optuna study.
            name: Of the parameter.
        """

    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """All values, or the least and the largest one."""

    def choices(self) -> tuple[Any, ...] | None:
        """All values as Optuna keeps them, for a grid; None where there is no end of them."""
        return None


@dataclass(frozen=True)
class Choice(Distribution):
    """One of some values: W&B's `categorical`, and `constant`, of which there is one.

    Attributes:
        values: Plain ones; what is no number, text or truth value is kept as JSON.
    """

    values: tuple[Any, ...]

    def suggested(self, trial: optuna.Trial, name: str) -> Any:
        """One of them."""
        kept = trial.suggest_categorical(name, self.choices())
        return self.values[self.choices().index(kept)]

    def ends(self) -> tuple[Any, ...]:
        """All."""
        return self.values

    def choices(self) -> tuple[Any, ...]:
        """All; JSON where Optuna could not keep them."""
        plain = all(isinstance(value, bool | int | float | str) for value in self.values)
        return self.values if plain else tuple(json.dumps(value) for value in self.values)


@dataclass(frozen=True)
class Range(Distribution):
    """Numbers between two, both among them.

    Attributes:
        low: The least.
        high: The largest.
        log: Whether it is the logarithm that is spread evenly.
        step: W&B's `q`: a number is rounded to a multiple of it, which may lie outside the two; None is none.
        whole: Whether they are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggested(self, trial: optuna.Trial, name: str) -> float:
        """One of them."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high))
        # Optuna's own `step` counts from the least number, W&B's from 0.
        return self._rounded(trial.suggest_float(name, self.low, self.high, log=self.log))

    def ends(self) -> tuple[float, ...]:
        """The least and the largest."""
        if self.whole:
            return int(self.low), int(self.high)
        return self._rounded(self.low), self._rounded(self.high)

    def choices(self) -> tuple[Any, ...] | None:
        """All, where they are whole numbers."""
        return tuple(range(int(self.low), int(self.high) + 1)) if self.whole else None

    def _rounded(self, value: float) -> float:
        """By W&B's rule: a whole number where `q` is one."""
        return value if self.step is None else round(value / self.step) * self.step


_RANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "uniform": {},
    "log_uniform_values": {"log": True},
    "int_uniform": {"whole": True},
    "q_uniform": {"step": 1},
    "q_log_uniform_values": {"log": True, "step": 1},
}
"""W&B's names of ranges, and what each is; its `q` is 1 where nobody says otherwise."""
_KNOWN: Final = (*_RANGES, "categorical", "constant")
_KEYS: Final = {"distribution", "value", "values", "min", "max", "q"}


def distribution(name: str, given: Any, where: str) -> Distribution:
    """The distribution of a parameter, as W&B understands it.

    Args:
        name: Of the parameter.
        given: What the sweep says of it.
        where: The file, for messages.

    Raises:
        ConfigError: If W&B or Optuna would not understand it.

    >>> distribution("lr", {"min": 0.001, "max": 0.1, "distribution": "log_uniform_values"}, "sweep.yaml")
    Range(low=0.001, high=0.1, log=True, step=None, whole=False)
    >>> distribution("size", {"min": 1, "max": 4}, "sweep.yaml").ends()
    (1, 4)
    """
    where = f"{where}, parameters.{name}"
    if not isinstance(given, Mapping) or not given:
        raise _error(where, repr(given), "value, values, or min and max", "see docs/tracking.md")
    for key in given:
        if key not in _KEYS:
            fix = f"write dotted names, such as {name}.NAME" if key == "parameters" else "leave it out"
            raise _error(where, key, ", ".join(sorted(_KEYS)), fix + nearest(str(key), _KEYS))
    kind = given.get("distribution") or _guessed(given)
    if kind not in _KNOWN:
        fix = "choose one of them: Optuna has no other" + nearest(str(kind), _KNOWN)
        raise _error(where, f"distribution {kind!r}", ", ".join(_KNOWN), fix)
    if kind in ("categorical", "constant"):
        key = "value" if kind == "constant" else "values"
        values = [given[key]] if kind == "constant" and key in given else given.get(key)
        if not isinstance(values, list) or not values:
            raise _error(where, f"{kind} without {key}", f"{key}, and for values a list", f"add {key}")
        return Choice(tuple(values))
    return _range(kind, given, where)


def _guessed(given: Mapping[str, Any]) -> str:
    """W&B's own rule where no distribution is named."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical"
    whole = all(isinstance(given.get(key), int) for key in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _range(kind: str, given: Mapping[str, Any], where: str) -> Range:
    numbers = {}
    for key in ("min", "max", *(("q",) if kind.startswith("q_") and "q" in given else ())):
        value = given.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            fix = "write it like 0.001 or 1.0e-3: YAML takes 1e-3 for a text"
            raise _error(where, f"{key}: {value!r}", "a number", fix)
        numbers[key] = value
    low, high, settings = numbers["min"], numbers["max"], dict(_RANGES[kind])
    if "q" in numbers:
        settings["step"] = numbers["q"]
    if low >= high or (settings.get("log") and low <= 0) or settings.get("step", 1) <= 0:
        expected = "min < max, above 0 where the logarithm is spread, and q above 0"
        raise _error(where, f"min {low}, max {high}", expected, "correct them")
    if settings.get("whole") and not (float(low).is_integer() and float(high).is_integer()):
        raise _error(where, f"min {low}, max {high}", "whole numbers", "correct them, or choose uniform")
    return Range(low, high, **settings)


def _error(where: str, found: object, expected: str, fix: str) -> ConfigError:
    return ConfigError(where=where, found=found, expected=expected, fix=fix)
