"""Fusion by a Tucker decomposition with a core of low rank."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead, product
from lightning_distill.sizes import check_sizes


class MUTANFusion(FusionHead):
    """Multimodal Tucker fusion (MUTAN): a multilinear form of small vectors, its core tensor of low rank.

    - v_m = tanh(W_m x_m)
    - x = sum_r prod_m (A_m^r v_m), r = 1, ..., rank, the product over the modalities that are present

    That is x_o = sum_{i, j, ...} T_{i j ... o} v_1i v_2j ..., where each slice T_{. . ... o} of the core is a
    sum of `rank` outer products of the rows A_1^r[o], A_2^r[o], ... There are no biases.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        core_dim: Width of v_m, for every modality.
        rank: Of each slice of the core.

    Raises:
        ConfigError: If a width or the rank is below 1.

    Source: Ben-younes et al., MUTAN: Multimodal Tucker Fusion for Visual Question Answering (1705.06676),
    sections 3.1 and 3.2; the last factor matrix of the Tucker decomposition, W_o, is the linear task head
    behind x. It is for two modalities. The authors' code adds biases to W_m and A_m^r, drops entries before
    each of the two, and can put a tanh behind A_m^r and behind the sum.
    """

    def __init__(
        self, feature_dims: Mapping[str, int], output_dim: int = 128, core_dim: int = 64, rank: int = 5
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("MUTANFusion", {"core_dim": core_dim, "rank": rank})
        self.rank = rank
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, core_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        # The ranks of a modality lie below each other: one product of matrices for all.
        self.core = nn.ModuleDict(
            {m: nn.Linear(core_dim, rank * output_dim, bias=False) for m in self.feature_dims}
        )

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply and sum over the ranks: "batch output_dim"."""
        factors = (self.core[m](torch.tanh(self.project[m](features[m]))) for m in self.modalities)
        return product(factors, mask).view(-1, self.rank, self.output_dim).sum(dim=1)
