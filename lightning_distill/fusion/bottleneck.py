"""Fusion through a few bottleneck tokens that the modalities share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.absence import all_there
from lightning_distill.attention import SelfAttentionLayer, attendable, check_layers
from lightning_distill.errors import ConfigError
from lightning_distill.fusion.base import FusionHead
from lightning_distill.structures import Tokens


class BottleneckFusion(FusionHead):
    """Multimodal bottleneck transformer (MBT): modalities meet in `num_bottlenecks` tokens b only.

    Each modality m has a transformer of its own over t_m = [c_m; W_m x_m + d_m], with a class token c_m:

    - layers below `fusion_layer`: t_m <- layer_m(t_m)
    - from there on: [t_m; b_m] = layer_m([t_m; b]) with the same b for every m, then b = mean of b_m over
      the modalities m that are there. At first b is learned, from N(0, 0.02^2).

    x = mean of LayerNorm(c_m) over the modalities m that are there. The paper averages the logits of one
    classifier for all c_m; with a linear task head that is the same.

    What one modality writes into b another reads one layer later: it takes two layers with bottlenecks to
    fuse. Without bottlenecks nothing is fused, and x is the mean of what each modality gives alone.

    Args:
        feature_dims: modality -> width of its tokens.
        output_dim: Width of the tokens inside, and of x.
        num_bottlenecks: Tokens in b; 0 for no fusion.
        num_layers: Transformer layers of each modality.
        fusion_layer: First layer with bottlenecks, counted from 0.
        num_heads: Attention heads; must divide `output_dim`.
        dropout: Probability, on attention weights and on what a layer adds to its tokens.

    Raises:
        ConfigError: If a number is out of its range, `num_heads` does not divide `output_dim`, or fewer than
            two layers have bottlenecks.

    Source: Nagrani et al., Attention Bottlenecks for Multimodal Fusion (2107.00135), section 3. As in the
    authors' code, all modalities read the same old b, and the last LayerNorm is shared. Differs from it in
    that x is read from the class tokens, in training too, instead of a mean over all tokens (its released
    configuration), that encoders see to positions, and that a single modality keeps its bottlenecks. Layers
    0 to 7 of their 12 do not fuse; here the encoders stand for these, so all layers do by default.
    """

    reads_tokens = True

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        num_bottlenecks: int = 4,
        num_layers: int = 2,
        fusion_layer: int = 0,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        name = type(self).__name__
        check_layers(name, ("output_dim", output_dim), num_heads, {"num_layers": num_layers}, dropout)
        _check_bottlenecks(num_bottlenecks, num_layers, fusion_layer)
        self.num_bottlenecks = num_bottlenecks
        self.fusion_layer = fusion_layer
        self.project = nn.ModuleDict({m: nn.Linear(dim, output_dim) for m, dim in self.feature_dims.items()})
        self.class_tokens = nn.Parameter(torch.randn(len(feature_dims), output_dim) * 0.02)
        # No parameter without entries: what looks for the largest gradient would stumble over it.
        shape = (num_bottlenecks, output_dim)
        self.bottlenecks = nn.Parameter(torch.randn(shape) * 0.02) if num_bottlenecks else None
        self.layers = nn.ModuleList(
            nn.ModuleDict({m: SelfAttentionLayer(output_dim, num_heads, dropout) for m in self.feature_dims})
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(output_dim)

    def fuse(self, features: Mapping[str, Tokens], mask: Tensor) -> Tensor:
        """Run the transformers side by side and average their class tokens: "batch output_dim"."""
        tokens = {
            m: torch.cat([token.expand(mask.shape[0], 1, -1), self.project[m](features[m].values)], dim=1)
            for m, token in zip(self.modalities, self.class_tokens, strict=True)
        }
        alone, joined = self._allowed(features, 0), self._allowed(features, self.num_bottlenecks)
        shared = None if self.bottlenecks is None else self.bottlenecks.expand(mask.shape[0], -1, -1)
        for depth, layers in enumerate(self.layers):
            # Behind the last layer nothing but the class tokens is read.
            first = 1 if depth == len(self.layers) - 1 else None
            if shared is None or depth < self.fusion_layer:
                tokens = {m: layers[m](x, alone[m], first) for m, x in tokens.items()}  # type: ignore[index]
                continue
            both = {m: torch.cat([x, shared], dim=1) for m, x in tokens.items()}
            tokens = {m: layers[m](x, joined[m], first) for m, x in both.items()}  # type: ignore[index]
            if first is None:
                n = self.num_bottlenecks
                shared = _mean([x[:, -n:] for x in tokens.values()], mask)
                tokens = {m: x[:, :-n] for m, x in tokens.items()}
        return _mean([self.norm(x[:, 0]) for x in tokens.values()], mask)

    def _allowed(self, features: Mapping[str, Tokens], bottlenecks: int) -> dict[str, Tensor | None]:
        """What each modality attends to; its class token and the bottlenecks are always there."""
        return {m: attendable(F.pad(x.mask, (1, bottlenecks), value=True)) for m, x in features.items()}


def _mean(each: list[Tensor], mask: Tensor) -> Tensor:
    """Mean over the modalities that are there, of one "batch ..." for each of them."""
    stacked = torch.stack(each, dim=1)
    if all_there(mask):
        return stacked.mean(dim=1)
    weights = mask.view(*mask.shape, *[1] * (stacked.ndim - 2)).to(stacked.dtype)
    return (stacked * weights).sum(dim=1) / weights.sum(dim=1)


def _check_bottlenecks(num_bottlenecks: int, num_layers: int, fusion_layer: int) -> None:
    if num_bottlenecks < 0:
        raise ConfigError(
            where="BottleneckFusion.num_bottlenecks",
            found=num_bottlenecks,
            expected="0 or more tokens",
            fix="start with 4, or set 0 for no fusion",
        )
    # With a single such layer every modality would read the learned b, and nothing of any other.
    most = num_layers - 2 if num_bottlenecks else num_layers
    if not 0 <= fusion_layer <= most:
        raise ConfigError(
            where="BottleneckFusion.fusion_layer",
            found=f"fusion_layer = {fusion_layer}, num_layers = {num_layers}",
            expected="two layers or more from fusion_layer on: one writes into the bottlenecks, the next "
            "reads what other modalities wrote",
            fix="set fusion_layer to 0 and num_layers to 2 or more, or num_bottlenecks to 0 for no fusion",
        )
