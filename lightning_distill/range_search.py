"""Which ranges and learning rates to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lightning_distill.range_quantiles import Quantiles
from lightning_distill.range_trials import Choice, Goal, Trial

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
        scale_free: Whether the optimizer divides by the size of its gradients.
    """

    rungs: tuple[Choice, ...]
    scale_free: bool

    @classmethod
    def of(cls, quantiles: Quantiles, optimizer_epsilon: float | None) -> Ladder:
        """At the 99.9, 99, 90 and 50 % quantiles, and in the sign regime.

        Args:
            quantiles: Of |entries|.
            optimizer_epsilon: What the optimizer adds where it divides by the size of its gradients, 0 where
                it adds nothing; None for one that does not divide, such as SGD. For it the last rung is the
                10 % quantile: lower ones only slow it down.
        """
        levels = (0.999, 0.99, 0.9, 0.5)
        rungs = [Choice(quantiles.at(level), why=f"{100 * level:.4g}% quantile") for level in levels]
        median = quantiles.at(0.5)
        if optimizer_epsilon is None:
            rungs.append(Choice(quantiles.at(0.1), why="10% quantile"))
        else:
            low = max(median / FAR_BELOW, FAR_BELOW * optimizer_epsilon)
            rungs.append(Choice(min(low, median), why="signs only"))
        kept: list[Choice] = []
        for rung in rungs:  # of a feature with many equal entries, several quantiles are one
            if not kept or (rung.epsilon or 0.0) < 0.99 * (kept[-1].epsilon or 0.0):
                kept.append(rung)
        return cls(tuple(kept), optimizer_epsilon is not None)


class Search(ABC):
    """Says what to try next."""

    @abstractmethod
    def following(self, done: Sequence[Trial]) -> Choice | None:
        """The next choice; None where there is no other.

        Args:
            done: All trials so far, the first of them without a clip at the rate the module comes with.
        """


class RangeSearch(Search):
    """Rungs of the ladder at one learning rate: 90 %, 50 %, the lowest, then the wide ones.

    Args:
        ladder: Where to look.
    """

    def __init__(self, ladder: Ladder) -> None:
        rungs = list(ladder.rungs)
        first = sorted(range(len(rungs)), key=lambda i: (2, 3, 4, 1, 0).index(i))
        self.choices = [rungs[i] for i in first]

    def following(self, done: Sequence[Trial]) -> Choice | None:
        """The first that has not been tried."""
        tried = {t.choice.epsilon for t in done}
        return next((c for c in self.choices if c.epsilon not in tried), None)


class JointSearch(Search):
    """Range and learning rate together.

    First a range at which half of the entries (SGD: a tenth) are clipped. Then, with the better of clip and
    no clip, learning rates in steps of 4, as long as they get better. The last trial, or the last two, go to
    neighbouring ranges at the best rate. Under SGD a clipped entry moves its weight by eta * eps, so there
    the rate is changed along with the range, for eta * eps to stay what was found to be good.

    Args:
        ladder: Ranges.
        goal: Says what is better.
        trials: How many there will be, without the first.
    """

    def __init__(self, ladder: Ladder, goal: Goal, trials: int) -> None:
        self.ladder, self.goal, self.trials = ladder, goal, trials
        wanted = "50% quantile" if ladder.scale_free else "90% quantile"
        self.first = next((c for c in ladder.rungs if c.why == wanted), ladder.rungs[0])

    def following(self, done: Sequence[Trial]) -> Choice | None:
        """See the class."""
        if len(done) == 1:
            return self.first
        best = self.goal.best(done)
        left = self.trials - (len(done) - 1)
        another = self._another_range(done, best)
        if left == 1 and another is not None:
            return another
        return self._another_rate(done, best) or another

    def _another_rate(self, done: Sequence[Trial], best: Trial) -> Choice | None:
        """The next rate up or down with the best range; None where both neighbours are known to be worse."""
        choice = best.choice
        if best.value is None:  # nothing trains at these rates
            slowest = min(t.choice.rate for t in done)
            return Choice(self.first.epsilon, slowest / STEP**2, self.first.why)
        known = {t.choice.rate for t in done if t.choice.epsilon == choice.epsilon}
        ways = [choice.rate * STEP, choice.rate / STEP]
        if any(t.value is None and t.choice.rate <= choice.rate for t in done):
            ways.reverse()  # where something diverged, rather slower
        free = [rate for rate in ways if not _among(rate, known)]
        return Choice(choice.epsilon, free[0], choice.why) if free else None

    def _another_range(self, done: Sequence[Trial], best: Trial) -> Choice | None:
        """A neighbour on the ladder that has not been tried near the best rate."""
        rungs, current = self.ladder.rungs, best.choice
        tried = {t.choice.epsilon for t in done}
        if current.epsilon is None:
            fresh = [c for c in rungs if c.epsilon not in tried]
            return Choice(fresh[0].epsilon, current.rate, fresh[0].why) if fresh else None
        at = next(i for i, c in enumerate(rungs) if c.epsilon == current.epsilon)
        for i in (at + 1, at - 1, at + 2, at - 2):
            if 0 <= i < len(rungs) and rungs[i].epsilon not in tried:
                rate = current.rate
                if not self.ladder.scale_free:
                    rate *= current.epsilon / (rungs[i].epsilon or current.epsilon)
                return Choice(rungs[i].epsilon, rate, rungs[i].why)
        return None


def _among(rate: float, known: set[float]) -> bool:
    return any(abs(rate / other - 1) < 1e-6 for other in known)
