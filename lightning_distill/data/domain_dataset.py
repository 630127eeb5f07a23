"""Batches that tell which rows are of a domain to adapt to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_distill.data.bad_samples import Substituted
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.domains_source import DomainsSource
from lightning_distill.data.reading import Reading
from lightning_distill.data.sampling import BatchKey
from lightning_distill.structures import Batch


class DomainDataset(MultimodalDataset):
    """Batches with `in_target_domain`. A bad sample is replaced by one of its own domain.

    Args:
        source: Where samples come from.
        rows: Row numbers in the source.
        reading: How to read them.
    """

    def __init__(self, source: DomainsSource, rows: NDArray[np.int64], reading: Reading) -> None:
        self._in_target = torch.from_numpy(source.in_target)
        super().__init__(source, rows, reading)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each domain."""
        return np.bincount(self._domain, minlength=len(self._in_target))

    @property
    def _domain(self) -> NDArray[np.int64]:
        return self.source.samples.domain[self.rows]

    def alike(self, position: int) -> Sequence[int]:
        """Those of its domain."""
        domain = self._domain
        found: list[int] = np.flatnonzero(domain == domain[position]).tolist()
        return found

    def _batch(self, key: BatchKey) -> Batch | Substituted:
        made = super()._batch(key)
        batch = made.batch if isinstance(made, Substituted) else made
        batch["in_target_domain"] = self._in_target[batch["domain"]]
        return made
