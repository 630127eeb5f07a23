"""Fusion by factorized bilinear pooling."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead, power_normalize, product
from lightning_distill.sizes import check_dropout, check_sizes


class MFBFusion(FusionHead):
    """Multimodal factorized bilinear pooling (MFB): each entry of x is a bilinear form of rank `factor`.

    - p = dropout(prod_m W_m x_m), of width output_dim * factor, over the modalities that are present
    - z_o = sum of p_j over the window j = o * factor, ..., o * factor + factor - 1
    - s = sign(z) sqrt|z|;  x = s / |s|_2, both as in `power_normalize`

    There are no biases, so the scale of a feature does not matter, but where products come near 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x, whose L2 norm is 1.
        factor: Products summed for each entry of x; 1 is low-rank bilinear pooling without tanh.
        dropout: Share of the products that is dropped in training, before they are summed, in [0, 1).

    Raises:
        ConfigError: If a width is below 1, or `dropout` is not in [0, 1).

    Source: Yu et al., Multi-modal Factorized Bilinear Pooling with Co-Attention Learning for Visual Question
    Answering (1708.01471), section 3. Windows are of neighbours, as in the authors' code. That code adds
    biases to W_m x_m, which the formulas do not have, and is for two modalities.
    """

    def __init__(
        self, feature_dims: Mapping[str, int], output_dim: int = 128, factor: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("MFBFusion", {"factor": factor})
        check_dropout("MFBFusion", dropout)
        self.factor = factor
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim * factor, bias=False) for m, dim in self.feature_dims.items()}
        )
        self.dropout = nn.Dropout(dropout)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply, sum up and normalise: "batch output_dim"."""
        products = self.dropout(product((self.project[m](features[m]) for m in self.modalities), mask))
        return power_normalize(products.view(-1, self.output_dim, self.factor).sum(dim=2))
