"""Loading batches, in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from lightning_distill.errors import DistillError
from lightning_distill.structures import Batch


class BatchLoader(DataLoader[Batch | DistillError]):
    """A DataLoader whose items are whole batches.

    It asks its sampler, and starts its workers, at the first batch: Lightning calls `iter` before it has told
    the sampler which epoch a resumed run is in. An error a worker met is raised as it was, with its type and
    fields; torch would make a RuntimeError of its traceback.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, DistillError):
                raise batch
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where to go on follows from Lightning's counts. That it is there tells Lightning so."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""
