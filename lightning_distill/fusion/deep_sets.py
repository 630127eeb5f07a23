"""Fusion of the modalities as a set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.absence import filled
from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_sizes


class DeepSetsFusion(FusionHead):
    """The present modalities are a set, whose elements one network phi maps and another, rho, reads summed.

    x = rho(sum of phi(W_m x_m + e_m) over the present modalities m), with
    phi(t) = V_2 gelu(V_1 t + c_1) + c_2 and rho(s) = U_2 gelu(U_1 s + d_1) + d_2.

    All modalities share phi; what tells one from another is its map W_m and its embedding e_m.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        hidden_dim: Width of W_m x_m, of the hidden layers of phi and rho, and of what phi returns.

    Raises:
        ConfigError: If there is no modality, or a width below 1.

    Source: Zaheer et al., Deep Sets (1703.06114), theorem 2 and the invariant model of section 3.1. The
    modality is the meta-information that phi may be conditioned on there. Differs from the authors' code in
    the depth of phi and rho, and in the activation.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128, hidden_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("DeepSetsFusion", {"hidden_dim": hidden_dim})
        # The bias of each is its modality's embedding.
        self.project = nn.ModuleDict({m: nn.Linear(dim, hidden_dim) for m, dim in self.feature_dims.items()})
        self.phi = _network(hidden_dim, hidden_dim)
        self.rho = _network(hidden_dim, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Map each modality, add up, map the sum: "batch output_dim"."""
        tokens = torch.stack([self.project[m](features[m]) for m in self.modalities], dim=1)
        elements = filled(self.phi(tokens.flatten(0, 1)), mask.flatten())
        x: Tensor = self.rho(elements.view_as(tokens).sum(dim=1))
        return x


def _network(hidden_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, output_dim))
