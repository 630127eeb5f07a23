"""Fusion with a learned vector in the place of what is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lightning_distill.absence import all_there
from lightning_distill.fusion.base import FusionHead
from lightning_distill.structures import Feature, Tokens


class LearnedPlaceholders(FusionHead):
    """Puts a learned vector e_m in the place of an absent modality's feature, for any other fusion head.

    x = fusion(y_1, ..., y_M), where y_m = x_m where present, else e_m, and every modality counts as present.

    e_m starts at 0. For a head that reads tokens, it is one token, the first. The rule is the same in
    training, in evaluation and in an exported model. It learns from the samples that lack a modality: where
    training has none, set the model's `modality_dropout`. One modality alone is never absent and has no
    placeholder.

    Args:
        feature_dims: modality -> width of its feature.
        fusion: Makes the head that fuses, from {modality: width}.

    Source: learned embeddings for what is missing, as the mask token of BERT (Devlin et al., 1810.04805,
    section 3.1) and the missing-aware prompts of Lee et al. (2303.03369, section 3); here one vector for each
    modality, whatever else the sample lacks.

    >>> from lightning_distill.fusion import GatedFusion
    >>> LearnedPlaceholders({"image": 2, "text": 3}, GatedFusion).output_dim
    128
    """

    def __init__(
        self, feature_dims: Mapping[str, int], fusion: Callable[[dict[str, int]], FusionHead]
    ) -> None:
        inner = fusion(dict(feature_dims))
        super().__init__(feature_dims, inner.output_dim)
        self.fusion = inner
        self.reads_tokens = inner.reads_tokens
        self.logit_additive = inner.logit_additive
        dims = self.feature_dims if len(self.feature_dims) > 1 else {}
        self.placeholders = nn.ParameterDict({m: nn.Parameter(torch.zeros(dim)) for m, dim in dims.items()})

    def fuse(self, features: Mapping[str, Feature], mask: Tensor) -> Tensor:
        """Fuse by the other head, with everyone present: "batch output_dim"."""
        present = dict(zip(self.modalities, mask.unbind(dim=1), strict=True))
        if not self.placeholders:
            return self.fusion(features, present)
        if all_there(mask):
            # A sum of no entries: it gives the placeholders a gradient of zero, for which DDP waits.
            nothing = torch.cat(list(self.placeholders.values()))[:0].sum()
            return self.fusion(features, present) + nothing
        complete = {m: _or_else(features[m], present[m], x) for m, x in self.placeholders.items()}
        return self.fusion(complete, {m: torch.ones_like(x) for m, x in present.items()})


def _or_else(feature: Feature, present: Tensor, placeholder: Tensor) -> Feature:
    """The feature where present, else the placeholder."""
    absent = ~present
    if isinstance(feature, Tokens):
        replaced = absent[:, None] & feature.first()
        return Tokens(_with(feature.values, replaced, placeholder), feature.mask | replaced)
    return _with(feature, absent, placeholder)


def _with(x: Tensor, replaced: Tensor, placeholder: Tensor) -> Tensor:
    """The placeholder in rows that are zero so far."""
    # What is kept needs no work in the backward pass, as it would with `torch.where`.
    return torch.addcmul(x, replaced[..., None].to(x.dtype), placeholder.to(x.dtype))
