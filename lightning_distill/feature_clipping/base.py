"""The contract of a feature clip: it bounds the fused feature in the forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class FeatureClip(nn.Module, ABC):
    """Bounds a feature, so that one modality cannot drown the others."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Clip x, "batch dim", to a tensor of the same shape and dtype."""

    @abstractmethod
    def saturated_share(self, x: Tensor) -> Tensor:
        """Share of entries of the unclipped x that the clip changes, as a 0-d tensor in [0, 1]."""
