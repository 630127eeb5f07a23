"""Whether robustness can be measured with these settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from lightning_distill.errors import ConfigError, nearest
from lightning_distill.robustness.base import Corruption


def check_levels(levels: Sequence[float], where: str) -> None:
    """Refuse levels that do not rise from 0 to at most 1.

    Args:
        levels: As given.
        where: For the message.

    Raises:
        ConfigError: If they are others.
    """
    rising = all(a < b for a, b in pairwise(levels))
    if len(levels) < 2 or levels[0] != 0 or not rising or not levels[-1] <= 1:
        raise ConfigError(
            where=where,
            found=" ".join(f"{level:g}" for level in levels) or "none",
            expected="at least two levels, rising from 0 (as it is) to at most 1",
            fix="give levels such as 0 0.25 0.5 0.75 1",
        )


def check_settings(ways: Sequence[Corruption], levels: Sequence[float]) -> None:
    """Refuse corruptions of one name, none at all, and levels that do not rise.

    Raises:
        ConfigError: Names the first that is wrong.
    """
    twice = [name for name, count in Counter(way.name for way in ways).items() if count > 1]
    if twice or not ways:
        raise ConfigError(
            where="robustness_curves, corruptions",
            found=f"two called {twice[0]!r}" if twice else "none",
            expected="one or more, each of another name",
            fix="call robustness_curves once for each of them" if twice else "leave it out to take all",
        )
    check_levels(levels, "robustness_curves, levels")


def check_modalities(worse: Sequence[str], reads: Sequence[str]) -> None:
    """Refuse to make worse what the model does not read.

    Args:
        worse: Modalities to make worse.
        reads: Modalities the model reads.

    Raises:
        ConfigError: Names the first that is wrong.
    """
    unknown = [m for m in worse if m not in reads]
    if unknown or not worse:
        raise ConfigError(
            where="robustness_curves, modalities",
            found=f"{unknown[0]!r}{nearest(unknown[0], reads)}" if unknown else "none",
            expected=f"some of {', '.join(reads)}, which the model reads",
            fix="leave it out to take all of them",
        )
