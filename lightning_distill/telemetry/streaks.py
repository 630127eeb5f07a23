"""How long something has held without a break."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Streak:
    """Looks in a row at which something held.

    Args:
        first: Step of the first.
        last: Step of the last.
        looks: How many.
        low: Smallest of what was measured at them.
        high: Largest.
    """

    first: int
    last: int
    looks: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def steps(self) -> int:
        """From the first look to the last."""
        return self.last - self.first


class Streaks:
    """Streaks of several kinds in several groups; each is long enough once only.

    >>> streaks = Streaks()
    >>> [streaks.lasting("a", "", True, 0.0, step, steps=2, looks=3) is None for step in range(5)]
    [True, True, False, True, True]
    """

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._running: dict[tuple[str, str], Streak] = {}

    def silence(self, kind: str, group: str) -> None:
        """Let it never be long enough, as if it had been told."""
        self._told.add((kind, group))

    def restart_if_wider(self, kind: str, group: str, value: float, factor: float) -> None:
        """Start anew where the value would take the streak's largest beyond factor times its smallest."""
        streak = self._running.get((kind, group))
        if streak and max(streak.high, value) > factor * min(streak.low, value):
            del self._running[kind, group]

    def lasting(
        self, kind: str, group: str, holds: bool, value: float, step: int, steps: int, looks: int
    ) -> Streak | None:
        """The streak, the first time that it is long enough.

        Args:
            kind: What may hold.
            group: Of what.
            holds: Whether it does, at this look.
            value: What was measured.
            step: Of this look; one that goes back starts anew.
            steps: Wanted from the first look to the last.
            looks: Wanted number of looks.
        """
        key = (kind, group)
        if not holds or key in self._told:
            self._running.pop(key, None)
            return None
        streak = self._running.get(key)
        if streak is None or step < streak.last:
            streak = self._running[key] = Streak(step, step)
        streak.last, streak.looks = step, streak.looks + 1
        streak.low, streak.high = min(streak.low, value), max(streak.high, value)
        if streak.looks < looks or streak.steps < steps:
            return None
        self._told.add(key)
        return streak
