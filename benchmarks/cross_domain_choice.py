"""Choosing a method without a label of the target: what each validator is worth, and which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

Found = Mapping[str, Any]
"""What one training has found: "job", "accuracy", "validators"."""


def validators(found: Sequence[Found]) -> tuple[str, ...]:
    """Names of all that was measured."""
    return tuple(found[0]["validators"])


def _groups(found: Sequence[Found], pair: str) -> list[list[Found]]:
    """The trainings of a pair, those of one seed together."""
    mine = [one for one in found if one["job"]["pair"] == pair]
    seeds = sorted({one["job"]["seed"] for one in mine})
    return [[one for one in mine if one["job"]["seed"] == seed] for seed in seeds]


def correlation(found: Sequence[Found], pair: str, validator: str) -> float:
    """Spearman's rank correlation of a validator with the true accuracy over methods; mean over seeds."""
    ranks = [
        spearmanr([one["validators"][validator] for one in group], [one["accuracy"] for one in group])
        for group in _groups(found, pair)
    ]
    return float(np.mean([np.nan_to_num(one.statistic) for one in ranks]))


def regret(found: Sequence[Found], pair: str, validator: str) -> float:
    """Accuracy of the best method minus that of the chosen one, both the mean over seeds, in points."""
    accuracy: dict[str, list[float]] = {}
    for one in found:
        if one["job"]["pair"] == pair:
            accuracy.setdefault(one["job"]["method"], []).append(one["accuracy"])
    means = {method: float(np.mean(values)) for method, values in accuracy.items()}
    return 100 * (max(means.values()) - means[chosen(found, pair, validator, list(means))])


def recommended(found: Sequence[Found], pairs: Sequence[str], left_out: str) -> str:
    """The validator with the least mean regret on all pairs but one."""
    others = [pair for pair in pairs if pair != left_out]

    def mean(validator: str) -> float:
        return float(np.mean([regret(found, pair, validator) for pair in others]))

    return min(validators(found), key=mean)


def chosen(found: Sequence[Found], pair: str, validator: str, methods: Sequence[str]) -> str:
    """The method a validator puts first, by its mean over seeds."""

    def mean(method: str) -> float:
        mine = [one for one in found if one["job"]["pair"] == pair and one["job"]["method"] == method]
        return float(np.mean([one["validators"][validator] for one in mine]))

    return max(methods, key=mean)
