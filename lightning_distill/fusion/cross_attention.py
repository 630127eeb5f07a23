"""Fusion by attention from each modality to each other one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.absence import all_there
from lightning_distill.attention import (
    CrossAttentionLayer,
    SelfAttentionLayer,
    attendable,
    check_layers,
)
from lightning_distill.fusion.base import FusionHead
from lightning_distill.structures import Tokens

Sources = dict[str, Sequence[Tensor]]
"""beta -> key, value of the first layer, key, value of the second, ...: each "batch tokens heads dim"."""


class CrossAttentionFusion(FusionHead):
    """Multimodal transformer (MulT): every modality alpha looks into every other one beta.

    With Z_m = W_m x_m + PE, where PE[i, 2j] = sin(i / 10000^(2j / width)), PE[i, 2j + 1] = cos(the same):

    - beta -> alpha: Z_ba <- layer(Z_ba; keys and values from Z_beta), `num_layers` times, starting from
      Z_alpha. Z_beta is the low-level source at every layer and is not updated.
    - Z = concatenation of Z_ba over beta, then `memory_layers` layers of self-attention; with one modality
      Z = Z_alpha.
    - h_alpha = mean over alpha's tokens of LayerNorm(Z);  x = W [h_1; ...; h_M] + b

    Where beta is absent nothing is added: Z_ba = Z_alpha. Where alpha is absent h_alpha = 0. No mask over
    time: tokens of two modalities do not share a clock.

    The mean, and not the last token, because tokens need not be in order of time, each has seen all others,
    and the last may be padding.

    Args:
        feature_dims: modality -> width of its tokens.
        output_dim: Width of x.
        width: Width of the tokens inside.
        num_heads: Attention heads; must divide `width`.
        num_layers: Layers from one modality to another.
        memory_layers: Layers of self-attention behind them.
        dropout: Probability, on attention weights and on what a layer adds to its tokens.

    Raises:
        ConfigError: If a number is out of its range, or `num_heads` does not divide `width`.

    Source: Tsai et al., Multimodal Transformer for Unaligned Multimodal Language Sequences (1906.00295),
    section 3, with convolutions of one token. What is added in a layer is added to Z, as in the authors'
    code; the paper writes LN(Z) there. The LayerNorm of the source has no scale and shift, which the maps to
    keys and values contain. Differs from the code in: no causal mask, no factor sqrt(width) before PE (W_m
    contains it), mean instead of last token, gelu, no residual MLP before the output, and no LayerNorm
    between the crossmodal layers and those of self-attention.
    """

    reads_tokens = True

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        width: int = 32,
        num_heads: int = 4,
        num_layers: int = 2,
        memory_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        depths = {"num_layers": num_layers, "memory_layers": memory_layers}
        check_layers(type(self).__name__, ("width", width), num_heads, depths, dropout)
        self.num_heads = num_heads
        names = self.modalities
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, width, bias=False) for m, dim in self.feature_dims.items()}
        )
        # Keys and values of a source, for all layers of all modalities that look into it: one product.
        size = (len(names) - 1) * num_layers * 2 * width
        self.keys_values = nn.ModuleDict({m: nn.Linear(width, size) for m in names} if size else {})
        self.targets = nn.ModuleDict()
        for alpha in names:
            crossmodal = {
                beta: _Crossmodal(width, num_heads, num_layers, dropout) for beta in names if beta != alpha
            }
            self.targets[alpha] = _Target(crossmodal, width, num_heads, memory_layers, dropout)
        self.output = nn.Linear(len(names) * max(len(names) - 1, 1) * width, output_dim)

    def fuse(self, features: Mapping[str, Tokens], mask: Tensor) -> Tensor:
        """Attend from each to each, pool, and join: "batch output_dim"."""
        embedded = {m: self.project[m](x.values) for m, x in features.items()}
        places = _sinusoids(max(embedded.values(), key=lambda x: x.shape[1]))
        embedded = {m: x + places[: x.shape[1]] for m, x in embedded.items()}
        allowed = {m: attendable(x.mask) for m, x in features.items()}
        there = dict(zip(self.modalities, mask.unbind(dim=1), strict=True))
        sources = self._sources(embedded)
        pooled = [
            self.targets[m](Tokens(z, features[m].mask), sources[m], allowed, there)
            for m, z in embedded.items()
        ]
        return self.output(torch.cat(pooled, dim=1))

    def _sources(self, embedded: Mapping[str, Tensor]) -> dict[str, Sources]:
        """Alpha -> what it looks into."""
        found: dict[str, Sources] = {m: {} for m in embedded}
        for beta, project in self.keys_values.items():
            width = embedded[beta].shape[2]
            projected = project(F.layer_norm(embedded[beta], (width,)))
            parts = projected.unflatten(2, (-1, self.num_heads, width // self.num_heads)).unbind(dim=2)
            targets = [m for m in embedded if m != beta]
            each = len(parts) // len(targets)
            for i, alpha in enumerate(targets):
                found[alpha][beta] = parts[i * each : (i + 1) * each]
        return found


class _Crossmodal(nn.Module):
    """From one modality to another: Z_ba."""

    def __init__(self, width: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionLayer(width, num_heads, dropout) for _ in range(num_layers))

    def forward(
        self, start: Tensor, source: Sequence[Tensor], allowed: Tensor | None, there: Tensor
    ) -> Tensor:
        z = start
        for layer, key, value in zip(self.layers, source[0::2], source[1::2], strict=True):
            z = layer(z, key, value, allowed)
        return z if all_there(there) else torch.where(there[:, None, None], z, start)


class _Target(nn.Module):
    """What one modality makes of itself and all others: h_alpha."""

    def __init__(
        self,
        crossmodal: Mapping[str, nn.Module],
        width: int,
        num_heads: int,
        memory_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        total = max(len(crossmodal), 1) * width
        self.crossmodal = nn.ModuleDict(crossmodal)
        self.memory = nn.ModuleList(
            SelfAttentionLayer(total, num_heads, dropout) for _ in range(memory_layers)
        )
        self.norm = nn.LayerNorm(total)

    def forward(
        self,
        own: Tokens,
        sources: Sources,
        allowed: Mapping[str, Tensor | None],
        there: Mapping[str, Tensor],
    ) -> Tensor:
        streams = [f(own.values, sources[b], allowed[b], there[b]) for b, f in self.crossmodal.items()]
        z = torch.cat(streams, dim=2) if streams else own.values
        mine = attendable(own.mask)
        for layer in self.memory:
            z = layer(z, mine)
        return Tokens(self.norm(z), own.mask).mean()


def _sinusoids(x: Tensor) -> Tensor:
    """PE for sequences "batch tokens width": "tokens width"."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    column = torch.arange(x.shape[2], device=x.device, dtype=dtype)
    odd = column % 2
    place = torch.arange(x.shape[1], device=x.device, dtype=dtype)[:, None]
    return torch.sin(place * 10000 ** ((odd - column) / x.shape[2]) + odd * (math.pi / 2)).to(x.dtype)
