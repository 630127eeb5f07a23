"""Fusion by a weighted mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead


class WeightedFusion(FusionHead):
    """A weighted mean, with one learned weight for each modality, the same for all samples.

    x = sum of a_m (W_m x_m + b_m) over the present modalities m, where a = softmax of the scores w_m over the
    present modalities. The scores start at 0, where x is the mean; so do the biases b_m.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.

    Raises:
        ConfigError: If there is no modality, or a width below 1.

    Source: Peters et al., Deep contextualized word representations (1802.05365), equation 1: layers of a
    network mixed by softmax-normalised scalars. Differs in that modalities are mixed, each after a linear map
    of its own, that the softmax is over those present, and that there is no factor gamma, which the maps
    can express.
    """

    scores: Tensor

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        self.bias = nn.Parameter(torch.zeros(len(feature_dims), output_dim))
        scores = torch.zeros(len(feature_dims))
        if len(feature_dims) > 1:
            self.scores = nn.Parameter(scores)
        else:  # The weight is 1 whatever the score: there is nothing to learn.
            self.register_buffer("scores", scores)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Project, weigh and add up: "batch output_dim"."""
        weights = self.scores.expand_as(mask).masked_fill(~mask, -torch.inf).softmax(dim=1)
        x = weights @ self.bias
        weights = weights.to(x.dtype)  # under autocast x is of lower precision
        for m, weight in zip(self.modalities, weights.split(1, dim=1), strict=True):
            x = torch.addcmul(x, weight, self.project[m](features[m]))
        return x
