"""Means over the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EpochMeans:
    """Weighted means, summed as one tensor: a `self.log` a value costs more than a small batch.

    >>> means = EpochMeans()
    >>> means.add({"loss": torch.tensor(1.0), "task": torch.tensor(3.0)}, {"loss": 4, "task": 1})
    >>> means.add({"loss": torch.tensor(4.0), "task": torch.tensor(9.0)}, {"loss": 2, "task": 0})
    >>> {name: (mean.item(), weight) for name, (mean, weight) in means.take().items()}
    {'loss': (2.0, 6.0), 'task': (3.0, 1.0)}
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Count one batch.

        Args:
            values: Name -> mean over the batch, 0-d; the same names each time.
            weights: Name -> what it counts, 0 or more; of what counts 0, not even a NaN matters.
        """
        stacked = torch.stack(list(values.values())).detach().float()
        factors = torch.tensor([float(weights[name]) for name in values])
        factors = factors.to(stacked.device, non_blocking=True)
        counted = torch.where(factors > 0, stacked * factors, 0.0)
        self._sums = counted if self._sums is None else self._sums + counted
        for name in values:
            self._weights[name] = self._weights.get(name, 0.0) + float(weights[name])

    def take(self) -> dict[str, tuple[Tensor, float]]:
        """Name -> (mean, 0-d; weight of all its batches), and begin anew; a mean of weight 0 is 0."""
        weights, sums = self._weights, self._sums
        self._sums, self._weights = None, {}
        if sums is None:
            return {}
        found = zip(weights.items(), sums.unbind(), strict=True)
        return {name: (total / (weight or 1.0), weight) for (name, weight), total in found}
