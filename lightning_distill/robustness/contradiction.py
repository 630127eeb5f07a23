"""A modality that speaks of something else than the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.batch_rows import take
from lightning_distill.robustness.base import Corruption, draws
from lightning_distill.structures import Batch, Inputs, labelled_rows


class Contradiction(Corruption):
    """The modality is that of another sample of the batch, with the probability `level`.

    x_i becomes x_j where u_i < level, with one uniform draw u_i a sample.

    The donor j is drawn among the batch's samples that have the modality and a label, and whose class is
    another one than that of i; where targets are numbers or several labels, among all others. u_i and the
    draw of j depend on (seed, sample id); who can be drawn depends on the batch. So results move with the
    batch size and the order of the samples, the more the smaller the batches are. A sample that lacks the
    modality goes on lacking it.

    >>> batch = {
    ...     "inputs": {"a": torch.tensor([[1.0], [2.0], [3.0]])},
    ...     "present": {"a": torch.tensor([True, True, True])},
    ...     "target": torch.tensor([0, 0, 1]),
    ...     "sample_id": torch.tensor([7, 8, 9]),
    ...     "domain": torch.tensor([0, 0, 0]),
    ... }
    >>> Contradiction()(batch, "a", 1.0, seed=0)["inputs"]["a"][:2, 0].tolist()
    [3.0, 3.0]
    """

    name: ClassVar[str] = "contradiction"

    def corrupt(self, batch: Batch, modality: str, level: float, seed: int) -> tuple[Inputs, Tensor]:
        """See the class."""
        u, pick = draws(batch, seed, f"contradiction {modality}", 2).unbind(dim=1)
        donors = _donors(batch, modality)
        own = torch.arange(len(u), device=u.device)
        changed = (u < level) & donors.any(dim=1)
        rows = torch.where(changed, _drawn(donors, batch["sample_id"], pick), own)
        inputs = batch["inputs"][modality]
        mixed = take(inputs, rows)
        return mixed, batch["present"][modality]

    def spared(self, batch: Batch, modality: str) -> Tensor:
        """Samples that lack it, or for which the batch holds no donor."""
        return ~_donors(batch, modality).any(dim=1)


def _donors(batch: Batch, modality: str) -> Tensor:
    """Whose modality may stand in for whose: bool "batch batch", the receiver first."""
    target, present = batch["target"], batch["present"][modality]
    if target.ndim == 1 and not target.is_floating_point():
        other = target[:, None] != target[None, :]
    else:
        other = ~torch.eye(len(target), dtype=torch.bool, device=target.device)
    return other & present[:, None] & (present & labelled_rows(target))[None, :]


def _drawn(donors: Tensor, sample_id: Tensor, pick: Tensor) -> Tensor:
    """One donor a row, by its place among the donors in the order of their ids: int64 "batch".

    Rows without a donor get an index that means nothing.
    """
    order = sample_id.argsort(stable=True)
    sorted_donors = donors[:, order]
    place = (pick * donors.sum(dim=1)).long()
    chosen = sorted_donors & (sorted_donors.cumsum(dim=1) - 1 == place[:, None])
    return order[chosen.int().argmax(dim=1)]
