"""Fusion by a network that reads the concatenation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_dropout, check_sizes


class ConcatMLPFusion(FusionHead):
    """x = W_2 dropout(gelu(W_1 [x_1; ...; x_M] + b_1)) + b_2, with zeros in the place of an absent modality.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        hidden_dim: Width of the hidden layer.
        dropout: Of the hidden layer: a probability.

    Raises:
        ConfigError: If there is no modality, a width is below 1, or the dropout is no probability below 1.

    Source: Ngiam et al., Multimodal Deep Learning (ICML 2011), section 3: a hidden layer that all modalities
    share, trained with zeros in the place of absent ones. Differs in that it is trained on the task alone,
    not as an autoencoder, with GELU (1606.08415) and dropout.
    """

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        hidden_dim: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("ConcatMLPFusion", {"hidden_dim": hidden_dim})
        check_dropout("ConcatMLPFusion", dropout)
        self.hidden = nn.Linear(sum(feature_dims.values()), hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_dim, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Concatenate, and apply the network: "batch output_dim"."""
        inputs = torch.cat([features[m] for m in self.modalities], dim=1)
        x: Tensor = self.output(self.dropout(nn.functional.gelu(self.hidden(inputs))))
        return x
