"""Fusion heads that attend, in as few lines as a paper's code has; see `fusion_minimal.py`."""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Sequence

import torch
from fusion_minimal import layers
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.project = layers(dims, out)
        self.modality_embedding = nn.Parameter(torch.randn(len(dims), out))
        self.attention = SelfAttention(out, heads)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: list[Tensor]) -> Tensor:
        t = torch.stack([layer(v) for layer, v in zip(self.project, x, strict=True)], dim=1)
        t = t + self.modality_embedding
        return self.norm(t + self.attention(t)).mean(dim=1)
