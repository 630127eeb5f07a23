"""Fusion by self-attention over the modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.absence import all_there
from lightning_distill.attention import attendable, check_heads
from lightning_distill.fusion.base import FusionHead


class AttentionFusion(FusionHead):
    """One token a modality, one layer of multi-head self-attention, mean over those present.

    t_m = W_m x_m + e_m;  u = LayerNorm(t + MultiHeadAttention(t));  x = mean of u_m over present m.
    Absent modalities are masked out of keys and mean.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of the tokens and of x.
        num_heads: Attention heads; must divide `output_dim`.

    Raises:
        ConfigError: If there is no modality, a width below 1, or `num_heads` does not divide `output_dim`.

    Source: Vaswani et al., Attention Is All You Need (1706.03762), section 3.2; one token a modality
    with a learned modality embedding e_m, as vision transformers embed positions. Weights start as those of
    `torch.nn.MultiheadAttention`.
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128, num_heads: int = 4) -> None:
        super().__init__(feature_dims, output_dim)
        check_heads("AttentionFusion", ("output_dim", output_dim), num_heads)
        self.num_heads = num_heads
        self.project = nn.ModuleDict({m: nn.Linear(dim, output_dim) for m, dim in self.feature_dims.items()})
        self.modality_embedding = nn.Parameter(torch.randn(len(feature_dims), output_dim) * 0.02)
        self.query_key_value = nn.Linear(output_dim, 3 * output_dim)
        self.output = nn.Linear(output_dim, output_dim)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.output.bias)
        self.norm = nn.LayerNorm(output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Attend and average: "batch output_dim"."""
        tokens = torch.stack([self.project[m](features[m]) for m in self.modalities], dim=1)
        tokens = tokens + self.modality_embedding
        parts = self.query_key_value(tokens).unflatten(2, (3, self.num_heads, -1)).unbind(dim=2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attendable(mask))
        u = self.norm(tokens + self.output(attended.transpose(1, 2).flatten(2)))
        if all_there(mask):
            return u.mean(dim=1)
        weights = mask[:, :, None].to(u.dtype)
        return (u * weights).sum(dim=1) / weights.sum(dim=1)
