"""The contract of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lightning_distill.structures import Batch, ModelOutput


class Teacher(ABC):
    """Gives a `ModelOutput` for a batch, without gradient.

    Deliberately not an nn.Module: what is not in the module tree cannot reach optimizer, checkpoint, clip
    rule or export, and no call of `train()` finds it.
    """

    num_classes: int
    """Width of its logits."""
    classes: tuple[str, ...] | None = None
    """Names of its classes in the order of its logits, where known."""
    requirements: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    """modality it reads -> settings the processor must have; nothing where not known."""
    preprocessing: Mapping[str, Mapping[str, object]] | None = None
    """modality -> settings of the processor it was trained with, where known."""

    @abstractmethod
    def __call__(self, batch: Batch) -> ModelOutput:
        """Answer for a batch."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move to the student's device."""

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers, for checks that none is shared with the student."""
