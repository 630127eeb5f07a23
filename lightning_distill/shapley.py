"""Shapley values: what each player adds to a game, averaged over all orders in which players could come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

from torch import Tensor

from lightning_distill.errors import ConfigError


def shapley_values(values: Mapping[frozenset[str], Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    r"""What each of M modalities adds, exactly, from the value of every subset.

        phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S))

    The weight of S is the share of all orders in which just S comes before m. So phi_m is the mean, over all
    orders in which modalities could arrive, of the change that m makes on arrival. The phi_m sum to
    v(all) - v(empty); a modality that changes nothing gets 0.

    Args:
        values: Subset of `modalities` -> v, "batch" or 0-d; each of the 2^M subsets, the empty one included.
        modalities: Their names, each once.

    Returns:
        modality -> phi, of the shape of v.

    Raises:
        ConfigError: If there is no modality, one is named twice, or a subset has no value.

    Source: Shapley, A Value for n-Person Games (Contributions to the Theory of Games II, 1953).

    >>> import torch
    >>> v = {"": 0.0, "a": 1.0, "b": 2.0, "ab": 5.0}
    >>> phi = shapley_values({frozenset(s): torch.tensor(x) for s, x in v.items()}, ["a", "b"])
    >>> phi["a"].item(), phi["b"].item()
    (2.0, 3.0)
    """
    _check(values, modalities)
    total = len(modalities)
    found = {}
    for modality in modalities:
        others = [m for m in modalities if m != modality]
        terms = [
            _weight(size, total) * (values[frozenset((*s, modality))] - values[frozenset(s)])
            for size in range(total)
            for s in combinations(others, size)
        ]
        found[modality] = sum(terms[1:], start=terms[0])
    return found


def _weight(size: int, total: int) -> float:
    """Share of all orders of `total` players in which `size` given ones, and no others, come before one."""
    return factorial(size) * factorial(total - size - 1) / factorial(total)


def _check(values: Mapping[frozenset[str], Tensor], modalities: Sequence[str]) -> None:
    if not modalities or len(set(modalities)) < len(modalities):
        raise ConfigError(
            where="shapley_values, modalities",
            found=list(modalities),
            expected="one modality or more, each named once",
            fix="name each of them once",
        )
    subsets = (s for size in range(len(modalities) + 1) for s in combinations(modalities, size))
    missing = [s for s in subsets if frozenset(s) not in values]
    if missing:
        names = [" + ".join(s) or "the empty subset" for s in missing]
        raise ConfigError(
            where="shapley_values, values",
            found=f"no value for {', '.join(names[:8])}" + (", ..." if len(names) > 8 else ""),
            expected=f"one for each of the {2 ** len(modalities)} subsets of {list(modalities)}",
            fix="add them; keys are frozensets of names, frozenset() is the empty one",
        )
