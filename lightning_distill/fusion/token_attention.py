"""Fusion by self-attention over the tokens of all modalities at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.attention import SelfAttentionLayer, attendable, check_layers
from lightning_distill.fusion.base import FusionHead
from lightning_distill.structures import Tokens


class TokenAttentionFusion(FusionHead):
    """One transformer over a class token c and the tokens of all modalities; x is what becomes of c.

    t = [c; W_m x_m,i + e_m for each modality m and token i];  t <- layer(t), `num_layers` times;
    x = LayerNorm(t_0). Every token attends to every other, of its own modality and of the others.

    e_m is the learned modality embedding (the bias of the projection). Positions are left to the encoders.
    Padding and absent modalities are masked out of the attention; c is always there. Of the last layer only
    the class token is computed, because nothing else is read.

    Args:
        feature_dims: modality -> width of its tokens.
        output_dim: Width of the tokens inside, and of x.
        num_heads: Attention heads; must divide `output_dim`.
        num_layers: Transformer layers.
        dropout: Probability, on attention weights and on what a layer adds to its tokens.

    Raises:
        ConfigError: If a number is out of its range, or `num_heads` does not divide `output_dim`.

    Source: Vaswani et al., Attention Is All You Need (1706.03762), section 3; over one sequence of all
    modalities with a segment embedding each, as Li et al., VisualBERT (1908.03557), section 3.2. Differs
    from VisualBERT in that layers normalise their input, and that x is not passed through a tanh layer.
    """

    reads_tokens = True

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        name = type(self).__name__
        check_layers(name, ("output_dim", output_dim), num_heads, {"num_layers": num_layers}, dropout)
        self.project = nn.ModuleDict({m: nn.Linear(dim, output_dim) for m, dim in self.feature_dims.items()})
        self.class_token = nn.Parameter(torch.randn(output_dim) * 0.02)
        self.layers = nn.ModuleList(
            SelfAttentionLayer(output_dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(output_dim)

    def fuse(self, features: Mapping[str, Tokens], mask: Tensor) -> Tensor:
        """Attend and read the class token: "batch output_dim"."""
        parts = [self.class_token.expand(mask.shape[0], 1, -1)]
        parts += [self.project[m](features[m].values) for m in self.modalities]
        there = torch.cat([features[m].mask for m in self.modalities], dim=1)
        tokens, allowed = torch.cat(parts, dim=1), attendable(F.pad(there, (1, 0), value=True))
        for layer in self.layers[:-1]:
            tokens = layer(tokens, allowed)
        return self.norm(self.layers[-1](tokens, allowed, first=1)[:, 0])
