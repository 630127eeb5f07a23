"""Fusion by feature-wise linear modulation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from lightning_distill.absence import filled
from lightning_distill.fusion.base import FusionHead


class FiLMFusion(FusionHead):
    """Feature-wise linear modulation (FiLM) of each modality by all others, summed.

    - h_m = W_m x_m + b_m, the feature to modulate; c_m = C_m x_m, the condition it offers
    - s_m = sum of c_j over the present j other than m
    - [g_m; t_m] = F_m s_m + a_m, where the bias a_m is learned and starts at [1; 0]
    - x = sum over the present m of (g_m * h_m + t_m)

    With two modalities, x is FiLM of the first by the second plus FiLM of the second by the first. A modality
    that is absent neither is modulated nor conditions another; one that is alone has s_m = 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x, of h_m and of c_m.

    Source: Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer (1709.07871), equations 1
    and 2, with a linear generator whose scale starts at 1, as in the paper's appendix on model details. There
    one modality conditions another, in several layers of a network; here each conditions all others, once.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128) -> None:
        super().__init__(feature_dims, output_dim)
        dims = self.feature_dims
        self.project = nn.ModuleDict({m: nn.Linear(dim, output_dim) for m, dim in dims.items()})
        start = torch.cat([torch.ones(output_dim), torch.zeros(output_dim)])
        self.modulation_bias = nn.ParameterDict({m: nn.Parameter(start.clone()) for m in dims})
        # A sole modality meets no condition: parameters for one would never get a gradient.
        several = dims if len(dims) > 1 else {}
        self.condition = nn.ModuleDict(
            {m: nn.Linear(dim, output_dim, bias=False) for m, dim in several.items()}
        )
        self.modulation = nn.ModuleDict(
            {m: nn.Linear(output_dim, 2 * output_dim, bias=False) for m in several}
        )

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Modulate and sum: "batch output_dim"."""
        # No bias: the condition of an absent modality, whose feature is zero, is zero.
        conditions = {m: layer(features[m]) for m, layer in self.condition.items()}
        parts = []
        for i, modality in enumerate(self.modalities):
            others = [c for m, c in conditions.items() if m != modality]
            modulation = self._modulation(modality, others)
            projected = self.project[modality](features[modality])
            scale, shift = modulation.chunk(2, dim=-1)
            parts.append(filled(torch.addcmul(shift, scale, projected), mask[:, i]))
        return reduce(torch.add, parts)

    def _modulation(self, modality: str, others: list[Tensor]) -> Tensor:
        """[g_m; t_m], "batch 2*output_dim"; without the batch for a sole modality."""
        bias = self.modulation_bias[modality]
        if not others:
            return bias
        return self.modulation[modality](reduce(torch.add, others)) + bias
