"""Fusion by a mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead


class MeanFusion(FusionHead):
    """x = mean of (W_m x_m + b_m) over the present modalities m.

    Unlike a sum, x has the same scale however many modalities a sample has. The biases b_m start at 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.

    Raises:
        ConfigError: If there is no modality, or a width below 1.

    Source: Havaei et al., HeMIS: Hetero-Modal Image Segmentation (1607.05194), whose abstraction layer
    averages over the modalities that a sample has. Differs in that each modality enters by one linear map
    instead of convolutions, and that the variance over the modalities is not part of x.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        self.bias = nn.Parameter(torch.zeros(len(feature_dims), output_dim))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Project and average: "batch output_dim"."""
        # Absent features are 0, so that only the biases have to be left out.
        x = mask.to(self.bias.dtype) @ self.bias
        for m in self.modalities:
            x = x + self.project[m](features[m])
        return x / mask.sum(dim=1, keepdim=True)
