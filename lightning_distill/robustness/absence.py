"""A modality that is not there."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.absence import blank
from lightning_distill.robustness.base import Corruption, draws
from lightning_distill.structures import Batch, Inputs


class Absence(Corruption):
    """The modality is absent with the probability `level`: present = present and not (u < level and others).

    u is one uniform draw a sample. A sample that has no other modality in the batch keeps this one. What an
    absent sample held is blanked too, for models that do not look at `present`.

    >>> batch = {
    ...     "inputs": {"a": torch.ones(2, 1), "b": torch.ones(2, 1)},
    ...     "present": {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])},
    ...     "target": torch.tensor([0, 1]),
    ...     "sample_id": torch.tensor([7, 8]),
    ...     "domain": torch.tensor([0, 0]),
    ... }
    >>> Absence()(batch, "a", 1.0, seed=0)["present"]["a"].tolist()
    [False, True]
    """

    name: ClassVar[str] = "absence"

    def corrupt(self, batch: Batch, modality: str, level: float, seed: int) -> tuple[Inputs, Tensor]:
        """See the class."""
        gone = (draws(batch, seed, f"absence {modality}")[:, 0] < level) & ~self.spared(batch, modality)
        return blank(batch["inputs"][modality], ~gone), batch["present"][modality] & ~gone

    def spared(self, batch: Batch, modality: str) -> Tensor:
        """Samples that lack it already, or have nothing else."""
        present = batch["present"]
        others = [present[m] for m in present if m != modality]
        if not others:
            return torch.ones_like(present[modality])
        return ~present[modality] | ~torch.stack(others).any(dim=0)
