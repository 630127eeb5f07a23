"""Which ranges and learning rates to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from lightning_distill.range_finding.quantiles import Quantiles
from lightning_distill.range_finding.trials import Choice, Goal, Trial

STEP: Final = 4.0
"""Between learning rates that are tried."""
FAR_BELOW: Final = 100.0
"""How far the range of the sign regime lies below the median, and above an optimizer's own epsilon."""


@dataclass(frozen=True)
class Ladder:
    """Ranges worth a trial, widest first.

    Between quantiles of |g|, since a range matters only there: above the largest entry it never binds. Far
    below the typical entry a clip returns eps * sign(g), which an optimizer that divides by the size of its
    gradients (Adam and its kin) makes the same step of, whatever eps is.

    Attributes:
        rungs: Their epsilons and where they come from.
        first: Place of the one to begin a joint search with.
        step_follows: Whether the size of a step is that of the range, as under SGD.
        own: The range that the module comes with, to be tried first.
    """

    rungs: tuple[Choice, ...]
    first: int
    step_follows: bool = False
    own: Choice | None = None

    @classmethod
    def of_gradients(cls, quantiles: Quantiles, optimizer: Mapping[str, Any]) -> Ladder:
        """At the 99.9, 99, 90 and 50 % quantiles, and one below.

        Under an optimizer that divides by the size of its gradients, the last is far below the median, but
        well above what the optimizer adds to its divisor. Under others, such as SGD, it is the 10 % quantile:
        lower ones only slow training down.

        Args:
            quantiles: Of |g|.
            optimizer: Its defaults, as torch's optimizers keep them.
        """
        rungs = _at(quantiles, (0.999, 0.99, 0.9, 0.5))
        if not {"eps", "betas"} & optimizer.keys():
            return cls(_apart([*rungs, *_at(quantiles, (0.1,))]), 2, step_follows=True)
        median = quantiles.at(0.5)
        eps = optimizer.get("eps")
        added = eps if isinstance(eps, float) else 0.0  # Adafactor has a pair, which it adds to squares
        low = max(median / FAR_BELOW, FAR_BELOW * added)
        return cls(_apart([*rungs, Choice(min(low, median), why="signs only")]), 3)

    @classmethod
    def of_features(cls, quantiles: Quantiles) -> Ladder:
        """At the 99.9, 99, 90, 75 and 50 % quantiles.

        Args:
            quantiles: Of |x|.
        """
        return cls(_apart(_at(quantiles, (0.999, 0.99, 0.9, 0.75, 0.5))), 2)

    def including(self, epsilon: float) -> Ladder:
        """The same with a range of the user's own; a rung that can hardly be told from it gives way.

        Args:
            epsilon: The range.
        """
        own = Choice(epsilon, why="yours")
        rungs = tuple(own if abs((c.epsilon or 0.0) / epsilon - 1) < 0.01 else c for c in self.rungs)
        return replace(self, rungs=rungs, own=own)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The rungs and the user's own range, widest first."""
        own = () if self.own is None else (self.own,)
        return tuple(sorted(dict.fromkeys((*self.rungs, *own)), key=lambda c: -(c.epsilon or 0.0)))


def _at(quantiles: Quantiles, levels: Sequence[float]) -> list[Choice]:
    return [Choice(quantiles.at(level), why=f"{100 * level:.4g}% quantile") for level in levels]


def _apart(rungs: Sequence[Choice]) -> tuple[Choice, ...]:
    """Where many entries are equal, several quantiles are one."""
    kept: list[Choice] = []
    for rung in rungs:
        if not kept or (rung.epsilon or 0.0) < 0.99 * (kept[-1].epsilon or 0.0):
            kept.append(rung)
    return tuple(kept)


class Search(ABC):
    """Says what to try next."""

    @abstractmethod
    def following(self, done: Sequence[Trial]) -> Choice | None:
        """The next choice; None where there is no other.

        Args:
            done: All trials so far, the first of them without a clip at the rate the module comes with.
        """


class RangeSearch(Search):
    """The user's own range, then rungs at one learning rate: 90 %, 50 %, the lowest, then the wide ones.

    Args:
        ladder: Where to look.
    """

    def __init__(self, ladder: Ladder) -> None:
        rungs = list(ladder.rungs)
        first = sorted(range(len(rungs)), key=lambda i: (2, 3, 4, 1, 0).index(i))
        self.choices = [*([] if ladder.own is None else [ladder.own]), *(rungs[i] for i in first)]

    def following(self, done: Sequence[Trial]) -> Choice | None:
        """The first that has not been tried."""
        tried = {t.choice.epsilon for t in done}
        return next((c for c in self.choices if c.epsilon not in tried), None)


class JointSearch(Search):
    """Range and learning rate together.

    First the user's own range, where there is one. Then a range that clips half of the entries (a tenth,
    under SGD and of features), or the rung below it where training diverged without a clip. Then, with the
    better of clip and no clip, learning rates in steps of 4, as long as they get better. The last trial, or
    the last two, go to neighbouring ranges at the best rate. Under SGD a clipped entry moves its weight by
    eta * eps, so there the rate changes along with the range, and eta * eps stays what was found good.

    Args:
        ladder: Ranges.
        goal: Says what is better.
        trials: How many there will be, without the first.
    """

    def __init__(self, ladder: Ladder, goal: Goal, trials: int) -> None:
        self.ladder, self.goal, self.trials = ladder, goal, trials

    def following(self, done: Sequence[Trial]) -> Choice | None:
        """See the class."""
        tried = {t.choice.epsilon for t in done}
        for first in (self.ladder.own, self._first(done)):
            if first is not None and first.epsilon not in tried:
                return first
        best = self.goal.best(done)
        left = self.trials - (len(done) - 1)
        another = self._another_range(done, best)
        if left == 1 and another is not None:
            return another
        return self._another_rate(done, best) or another

    def _first(self, done: Sequence[Trial]) -> Choice:
        at = self.ladder.first + (done[0].value is None)
        return self.ladder.rungs[min(at, len(self.ladder.rungs) - 1)]

    def _another_rate(self, done: Sequence[Trial], best: Trial) -> Choice | None:
        """The next rate up or down with the best range; None where both neighbours are known to be worse."""
        choice = best.choice
        if best.value is None:  # nothing trains at these rates
            slowest = min(t.choice.rate for t in done)
            first = self._first(done)
            return Choice(first.epsilon, slowest / STEP**2, first.why)
        known = {t.choice.rate for t in done if t.choice.epsilon == choice.epsilon}
        ways = [choice.rate * STEP, choice.rate / STEP]
        if any(t.value is None and t.choice.rate <= choice.rate for t in done):
            ways.reverse()  # where something diverged, rather slower
        free = [rate for rate in ways if not _among(rate, known)]
        return Choice(choice.epsilon, free[0], choice.why) if free else None

    def _another_range(self, done: Sequence[Trial], best: Trial) -> Choice | None:
        """A neighbour on the ladder that has not been tried near the best rate."""
        rungs, current = self.ladder.choices, best.choice
        tried = {t.choice.epsilon for t in done}
        if current.epsilon is None:
            fresh = [c for c in rungs if c.epsilon not in tried]
            return Choice(fresh[0].epsilon, current.rate, fresh[0].why) if fresh else None
        at = next(i for i, c in enumerate(rungs) if c.epsilon == current.epsilon)
        for i in (at + 1, at - 1, at + 2, at - 2):
            if 0 <= i < len(rungs) and rungs[i].epsilon not in tried:
                rate = current.rate
                if self.ladder.step_follows:
                    rate *= current.epsilon / (rungs[i].epsilon or current.epsilon)
                return Choice(rungs[i].epsilon, rate, rungs[i].why)
        return None


def _among(rate: float, known: set[float]) -> bool:
    return any(abs(rate / other - 1) < 1e-6 for other in known)
