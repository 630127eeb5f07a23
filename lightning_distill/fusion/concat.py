"""Fusion by concatenation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_distill.fusion.base import FusionHead


class ConcatFusion(FusionHead):
    """x = [x_1; ...; x_M], with zeros in the place of an absent modality.

    Args:
        feature_dims: modality -> width of its feature.

    Source: the fused feature x = f1(image) + f2(text) + f3(audio) with "+" as concatenation.

    >>> head = ConcatFusion({"image": 2, "text": 3})
    >>> head.output_dim
    5
    """

    def __init__(self, feature_dims: Mapping[str, int]) -> None:
        super().__init__(feature_dims, sum(feature_dims.values()))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Concatenate: "batch sum(dim_m)"."""
        return torch.cat([features[m] for m in self.modalities], dim=1)
