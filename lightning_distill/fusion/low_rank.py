"""Fusion by a tensor of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_sizes


class LowRankFusion(FusionHead):
    """Low-rank multimodal fusion (LMF): a tensor fusion whose weights are a sum of `rank` outer products.

    x = sum_r w_r prod_m ([1; x_m] W_m^r) + b

    W_m^r is "1+dim_m output_dim" and the product runs entry by entry. This is `TensorFusion` of the x_m
    themselves, with the weight tensor sum_r w_r W_1^r (x) ... (x) W_M^r, which is never made. An absent
    modality is [1; 0]: its constant row W_m^r[0] stays in the product, so that it scales the others by a
    learned number rather than by 0.

    The factors of one modality are one linear layer, `factors.m`: row o * rank + r of its weight is column o
    of W_m^r without the first entry, which is its bias. The gradient of a modality's factors is as large as
    the product of all others: with many modalities, clip.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        rank: Outer products to sum; the paper tries 1 to 16.

    Raises:
        ConfigError: If the rank is below 1.

    Source: Liu et al., Efficient Low-rank Multimodal Fusion with Modality-Specific Factors (1806.00064),
    section 3.2, with the weights w_r of the authors' code. Each W_m^r starts Xavier-normal by its own two
    widths; the authors' code initialises the factors of all ranks as one tensor of three dimensions, which
    PyTorch takes for a convolution's, and so starts them smaller.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128, rank: int = 4) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("LowRankFusion", {"rank": rank})
        self.factors = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim * rank) for m, dim in self.feature_dims.items()}
        )
        for modality, dim in self.feature_dims.items():
            std = math.sqrt(2 / (1 + dim + output_dim))
            for parameter in self.factors[modality].parameters():
                nn.init.normal_(parameter, std=std)
        self.rank_weights = nn.Parameter(torch.randn(rank) * math.sqrt(2 / (1 + rank)))
        self.bias = nn.Parameter(torch.zeros(output_dim))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply and sum over the ranks: "batch output_dim"."""
        first, *others = self.modalities
        product: Tensor = self.factors[first](features[first])
        for modality in others:
            product = product * self.factors[modality](features[modality])
        return product.unflatten(1, (self.output_dim, -1)) @ self.rank_weights + self.bias
