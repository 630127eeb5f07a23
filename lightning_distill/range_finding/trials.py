"""What is tried when a range is looked for, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A range and a learning rate.

    Attributes:
        epsilon: The range; None is no clip.
        rate: Times the learning rate the module comes with.
        why: Where the range comes from, such as "90% quantile".
    """

    epsilon: float | None = None
    rate: float = 1.0
    why: str = "off"


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        choice: What was tried.
        learning_rate: The rate it was trained with.
        value: The best value of the monitored metric; None where training stopped, or it was not finite.
        loss: The task's loss on the validation data when `value` was reached; None where not logged.
        stopped: Why training stopped early; empty where it did not.
        seconds: It took.
    """

    choice: Choice
    learning_rate: float
    value: float | None
    loss: float | None = None
    stopped: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Goal:
    """What is better.

    Attributes:
        monitor: Name of the metric, such as "val/accuracy".
        mode: "max" or "min".
        tolerance: Share of the best value by which values may differ and still be called the same.
    """

    monitor: str
    mode: str
    tolerance: float = 0.005

    def score(self, trial: Trial) -> tuple[float, float]:
        """To order trials by: the larger the better, a smaller loss first among equals."""
        if trial.value is None:
            return -math.inf, -math.inf
        loss = math.inf if trial.loss is None else trial.loss
        return self.worth(trial.value), -loss

    def worth(self, value: float) -> float:
        """The larger the better, in either mode."""
        return value if self.mode == "max" else -value

    def same(self, one: float, best: float) -> bool:
        """Whether two values are too near to be told apart."""
        return abs(one - best) <= self.tolerance * abs(best)

    def best(self, trials: Sequence[Trial]) -> Trial:
        """The one with the best value."""
        return max(trials, key=self.score)

    def chosen(self, trials: Sequence[Trial]) -> Trial:
        """Of those that cannot be told from the best, the one that changes least.

        That is one at the learning rate of the best, if possible without a clip, else with the widest range.
        """
        best = self.best(trials)
        if best.value is None:
            return best
        equal = [t for t in trials if t.value is not None and self.same(t.value, best.value)]
        return min(equal, key=lambda t: (abs(math.log(t.choice.rate / best.choice.rate)), -width(t)))


def width(trial: Trial) -> float:
    """Its range; infinite without a clip."""
    return math.inf if trial.choice.epsilon is None else trial.choice.epsilon


@dataclass(frozen=True)
class Plateau:
    """Ranges, next to each other, that cannot be told apart.

    Attributes:
        low: The narrowest.
        high: The widest; None where no clip at all is among them.
        worst: Of their values.
        best: Of their values.
        learning_rate: With which they were tried.
    """

    low: float
    high: float | None
    worst: float
    best: float
    learning_rate: float

    def __str__(self) -> str:
        upper = "no clip at all" if self.high is None else f"{self.high:.3g}"
        return (
            f"any range from {self.low:.3g} to {upper} gives the same at a learning rate of "
            f"{self.learning_rate:.3g}: {self.worst:.4g} to {self.best:.4g}"
        )


def plateaus(trials: Sequence[Trial], goal: Goal) -> list[Plateau]:
    """Runs of two or more neighbouring ranges whose values are the same, for each learning rate.

    Args:
        trials: In any order.
        goal: Says what is the same.
    """
    found = []
    for rate in dict.fromkeys(t.learning_rate for t in trials):
        row = sorted((t for t in trials if t.learning_rate == rate), key=width)
        for run in _runs(row, goal):
            low = run[0].choice.epsilon if len(run) > 1 else None
            if low is not None:
                values = sorted((t.value for t in run if t.value is not None), reverse=goal.mode == "min")
                found.append(Plateau(low, run[-1].choice.epsilon, values[0], values[-1], rate))
    return found


def _runs(row: Sequence[Trial], goal: Goal) -> list[list[Trial]]:
    """The row in pieces, each as long as all values in it are the same."""
    runs: list[list[Trial]] = []
    for trial in row:
        if trial.value is None:
            runs.append([])
        elif runs and runs[-1] and all(goal.same(t.value or 0.0, trial.value) for t in runs[-1]):
            runs[-1].append(trial)
        else:
            runs.append([trial])
    return runs
