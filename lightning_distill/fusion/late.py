"""Late fusion: each modality answers alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_sizes


class LateFusion(FusionHead):
    """The mean of what each modality says.

    x = mean of h_m over the present modalities m, with h_m = V_m gelu(U_m x_m + c_m) + b_m.

    Behind it stands a linear task head, y = W x + b, and so y is exactly the mean over the present modalities
    of y_m = W h_m + b, what the model answers from m alone (unless a feature clip bounds x in between). The
    modalities do not interact: what takes two of them to tell cannot be learned. The biases b_m start at 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        hidden_dim: Width of each modality's hidden layer.

    Raises:
        ConfigError: If there is no modality, or a width below 1.

    Source: Baltrušaitis et al., Multimodal Machine Learning: A Survey and Taxonomy (1705.09406), on
    model-agnostic approaches: unimodal decisions, fused by averaging. Differs in that logits are averaged,
    not probabilities, and that the modalities are trained together, by the loss of their mean.
    """

    logit_additive = True

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128, hidden_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("LateFusion", {"hidden_dim": hidden_dim})
        self.hidden = nn.ModuleDict({m: nn.Linear(dim, hidden_dim) for m, dim in self.feature_dims.items()})
        self.output = nn.ModuleDict({m: nn.Linear(hidden_dim, output_dim, bias=False) for m in self.hidden})
        self.bias = nn.Parameter(torch.zeros(len(feature_dims), output_dim))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Average what each modality says: "batch output_dim"."""
        weights = mask.to(self.bias.dtype) / mask.sum(dim=1, keepdim=True)
        x = weights @ self.bias
        weights = weights.to(x.dtype)  # under autocast x is of lower precision
        for m, weight in zip(self.modalities, weights.split(1, dim=1), strict=True):
            hidden = nn.functional.gelu(self.hidden[m](features[m]))
            x = torch.addcmul(x, weight, self.output[m](hidden))
        return x
