"""Fusion by a sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead


class SumFusion(FusionHead):
    """x = sum of (W_m x_m + b_m) over the present modalities m.

    The biases b_m start at 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.

    Raises:
        ConfigError: If there is no modality, or a width below 1.

    Source: Baltrušaitis et al., Multimodal Machine Learning: A Survey and Taxonomy (1705.09406), on joint
    representations: the one layer that reads all modalities, [W_1 ... W_M] [x_1; ...; x_M] + b, before its
    nonlinearity. Differs in that each modality has a bias of its own, which leaves with it.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        self.bias = nn.Parameter(torch.zeros(len(feature_dims), output_dim))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Project and add up: "batch output_dim"."""
        # Absent features are 0, so that only the biases have to be left out.
        x = mask.to(self.bias.dtype) @ self.bias
        for m in self.modalities:
            x = x + self.project[m](features[m])
        return x
