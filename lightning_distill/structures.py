"""The nouns everyone shares: what a batch holds and what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

from torch import Tensor

UNLABELLED: Final = -100
"""Class index of a sample without a label (what `torch.nn.functional.cross_entropy` ignores)."""

Inputs = Tensor | dict[str, Tensor]
"""What one encoder reads: a tensor, or a dict of tensors such as token ids and their mask."""


class Batch(TypedDict):
    """A plain dict, so that Lightning moves, pins and collates it without help.

    Attributes:
        inputs: modality -> tensor (or dict of tensors), first dimension "batch".
        present: modality -> bool tensor "batch"; False where the sample lacks that modality.
        target: int64 tensor "batch" of class indices, `UNLABELLED` where there is no label.
        sample_id: int64 tensor "batch", a stable content id, never a row number.
        domain: int64 tensor "batch", index into the data source's list of domains.
    """

    inputs: dict[str, Inputs]
    present: dict[str, Tensor]
    target: Tensor
    sample_id: Tensor
    domain: Tensor


@dataclass(frozen=True)
class ModelOutput:
    """What a model makes of a batch.

    Attributes:
        logits: float tensor "batch classes".
        embedding: float tensor "batch dim", the fused feature after clipping.
        features: modality -> float tensor "batch dim_m", one per encoder, zero where absent.
        extras: 0-d tensors worth logging, such as the saturated share of the fused feature.
    """

    logits: Tensor
    embedding: Tensor
    features: Mapping[str, Tensor]
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def select_labelled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the rows that have a label.

    >>> import torch
    >>> logits, target = torch.zeros(3, 2), torch.tensor([1, UNLABELLED, 0])
    >>> select_labelled(logits, target)[1].tolist()
    [1, 0]
    """
    labelled = target != UNLABELLED
    return logits[labelled], target[labelled]
