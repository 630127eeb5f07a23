"""Quantiles of |entries| over a training: what the ranges of clips are chosen from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from lightning_distill.units.quantile import sample

LEVELS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Shares at which quantiles are kept; 1 is the largest entry."""


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of |entries| other than 0: the median, over steps, of those of each step.

    The median is not moved by a few steps whose entries are far larger, such as those of broken samples.
    A clip leaves an entry of 0 as it is, so those say nothing about its range.

    Attributes:
        values: One for each of `LEVELS`, not decreasing.
        zero_share: Of the entries; the median over steps too.
        steps: That were looked at.
    """

    values: tuple[float, ...]
    zero_share: float
    steps: int

    def at(self, level: float) -> float:
        """The quantile at any share, on a straight line of log |entry| between those that are kept.

        >>> round(Quantiles(tuple(10.0**i for i in range(11)), 0.0, 1).at(0.925))
        3162278
        """
        level = min(max(level, LEVELS[0]), LEVELS[-1])
        i = max(k for k, there in enumerate(LEVELS[:-1]) if there <= level)
        part = (level - LEVELS[i]) / (LEVELS[i + 1] - LEVELS[i])
        return float(self.values[i] ** (1 - part) * self.values[i + 1] ** part)

    def level_of(self, value: float) -> float:
        """The share of entries other than 0 up to a size; the inverse of `at` between the ends."""
        if value <= self.values[0]:
            return LEVELS[0]
        if value >= self.values[-1]:
            return LEVELS[-1]
        i = max(k for k, there in enumerate(self.values[:-1]) if there <= value)
        low, high = math.log(self.values[i]), math.log(self.values[i + 1])
        part = (math.log(value) - low) / (high - low)
        return LEVELS[i] + part * (LEVELS[i + 1] - LEVELS[i])


class QuantileRecorder:
    """Gathers quantiles of groups of tensors, a row a step, on the tensors' device.

    >>> recorder = QuantileRecorder()
    >>> recorder.add({"a": [torch.tensor([-3.0, 0.0, 1.0])]})
    >>> found = recorder.quantiles()["a"]
    >>> found.values[-1], round(found.zero_share, 3)
    (3.0, 0.333)
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, groups: Mapping[str, Sequence[Tensor]]) -> None:
        """Look at one step.

        Args:
            groups: Name -> tensors of any shapes, taken together.
        """
        for name, tensors in groups.items():
            there = [t for t in tensors if t.numel()]
            if there:
                self._rows.setdefault(name, []).append(row_of(sample([t.detach() for t in there]).float()))

    def quantiles(self, part: float = 1.0) -> dict[str, Quantiles]:
        """What was found; a group without a finite entry other than 0 is left out.

        Args:
            part: How much of the training counts, from its beginning; a step at least.
        """
        found = {}
        for name, rows in self._rows.items():
            table = torch.stack(rows[: max(1, int(part * len(rows)))]).cpu().double()
            table = table[table[:, 0].isfinite()]
            if len(table):
                middle = table.quantile(0.5, dim=0).tolist()
                found[name] = Quantiles(tuple(middle[:-1]), middle[-1], len(table))
        return found


def row_of(entries: Tensor) -> Tensor:
    """Quantiles at `LEVELS` of the finite |entries| other than 0, and the share of zeros; NaN without any.

    Args:
        entries: Vector.
    """
    size = entries.abs()
    size = size[size.isfinite()]
    some = size[size > 0]
    if not len(some):
        return size.new_full((len(LEVELS) + 1,), math.nan)
    levels = torch.tensor(LEVELS, device=some.device)
    return torch.cat([some.quantile(levels), 1 - len(some) / size.new_full((1,), len(size))])
