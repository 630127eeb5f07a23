"""Fusion by low-rank bilinear pooling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead, product
from lightning_distill.sizes import check_dropout, check_sizes


class MLBFusion(FusionHead):
    """Multimodal low-rank bilinear pooling (MLB): one hidden vector a modality, multiplied entry by entry.

    x = P dropout(prod_m tanh(W_m x_m + b_m)) + b, the product over the modalities that are present.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        hidden_dim: Width of the product: the rank of the bilinear form behind each entry of x.
        dropout: Share of the product's entries that is dropped in training, in [0, 1).

    Raises:
        ConfigError: If a width is below 1, or `dropout` is not in [0, 1).

    Source: Kim et al., Hadamard Product for Low-rank Bilinear Pooling (1610.04325), section 3. It is for two
    modalities; the product over more is the same form. The authors' code also drops entries of the inputs
    x_m, which here is left to the encoders.
    """

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        hidden_dim: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("MLBFusion", {"hidden_dim": hidden_dim})
        check_dropout("MLBFusion", dropout)
        self.project = nn.ModuleDict({m: nn.Linear(dim, hidden_dim) for m, dim in self.feature_dims.items()})
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_dim, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply and project: "batch output_dim"."""
        factors = (torch.tanh(self.project[m](features[m])) for m in self.modalities)
        return self.out(self.dropout(product(factors, mask)))  # type: ignore[no-any-return]
