"""Fusion by gated multimodal units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead


class GatedFusion(FusionHead):
    """Gated multimodal unit (GMU): each modality's contribution is scaled by a gate that sees all of them.

    With h_m = tanh(W_m x_m):

    - M = 2, in alphabetical order: z = sigmoid(W_z [x_1; x_2]); x = z * h_1 + (1 - z) * h_2
    - otherwise: z_m = sigmoid(W_zm [x_1; ...; x_M]); x = sum_m z_m * h_m

    The gates read the inputs x_m, not h_m, and there are no biases. An absent modality enters the gates as
    zeros and adds nothing to x; when only one of two is there, its gate is 1.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.

    Source: Arevalo et al., Gated Multimodal Units for Information Fusion (1702.01992), section 3.1 and
    figure 2. Differs from the authors' code, which puts a batch normalisation before the unit.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        total = sum(feature_dims.values())
        self.hidden = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        gates = 1 if len(feature_dims) == 2 else len(feature_dims)
        self.gate = nn.Linear(total, gates * output_dim, bias=False)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Gate and sum: "batch output_dim"."""
        hidden = torch.stack([torch.tanh(self.hidden[m](features[m])) for m in self.modalities], dim=1)
        inputs = torch.cat([features[m] for m in self.modalities], dim=1)
        gates = torch.sigmoid(self.gate(inputs)).unflatten(1, (-1, self.output_dim))
        if len(self.modalities) == 2:
            gates = torch.cat([gates, 1 - gates], dim=1)
            alone = (mask.sum(dim=1) == 1)[:, None, None]
            gates = gates.masked_fill(alone, 1.0)
        return (gates * hidden * mask[:, :, None]).sum(dim=1)
