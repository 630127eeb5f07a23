"""Fusion by a block-superdiagonal tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.fusion.base import FusionHead, power_normalize, product
from lightning_distill.sizes import check_sizes


class BLOCKFusion(FusionHead):
    """Block-superdiagonal fusion (BLOCK): chunks that meet only their like, each a tensor of low rank.

    - v_m = W_m x_m, cut into `chunks` pieces v_m^c of width core_dim / chunks
    - z^c = sum_r prod_m (A_m^{c r} v_m^c), r = 1, ..., rank, the product over the modalities present
    - u^c = s^c / |s^c|_2 with s^c = sign(z^c) sqrt|z^c|, as in `power_normalize`
    - x = P [u^1; ...; u^chunks] + b

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        core_dim: Width of v_m, and of all chunks together.
        chunks: How many blocks the core tensor has; must divide `core_dim`.
        rank: Of each slice of each block.

    Raises:
        ConfigError: If a width or the rank is below 1, or `chunks` does not divide `core_dim`.

    Source: Ben-younes et al., BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and Visual
    Relationship Detection (1902.00038), section 3; the normalisation of each chunk is that of the authors'
    code (`before_cat`). That code is for two modalities, adds biases to W_m and A_m^{c r}, which the paper's
    tensor does not have, can drop entries, and cuts chunks of unequal width where they do not divide; its
    defaults are core_dim 1600, chunks 20, rank 15.
    """

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        core_dim: int = 256,
        chunks: int = 16,
        rank: int = 5,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("BLOCKFusion", {"core_dim": core_dim, "chunks": chunks, "rank": rank})
        if core_dim % chunks:
            raise ConfigError(
                where="BLOCKFusion.chunks",
                found=f"chunks = {chunks}, core_dim = {core_dim}",
                expected="a divisor of core_dim",
                fix="choose core_dim as a multiple of chunks",
            )
        self.chunks = chunks
        self.rank = rank
        self.chunk_dim = core_dim // chunks
        self.project = nn.ModuleDict(
            {m: nn.Linear(dim, core_dim, bias=False) for m, dim in self.feature_dims.items()}
        )
        self.core = nn.ParameterDict({m: self._new_core() for m in self.feature_dims})
        self.out = nn.Linear(core_dim, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply chunk by chunk, normalise each and project: "batch output_dim"."""
        products = product((self._ranks(m, features[m]) for m in self.modalities), mask)
        z = products.unflatten(2, (self.rank, self.chunk_dim)).sum(dim=2)
        return self.out(power_normalize(z).flatten(1))  # type: ignore[no-any-return]

    def _ranks(self, modality: str, feature: Tensor) -> Tensor:
        """A_m^{c r} v_m^c for all chunks and ranks at once: "batch chunks rank*chunk_dim"."""
        chunks = self.project[modality](feature).view(-1, self.chunks, self.chunk_dim)
        return torch.bmm(chunks.transpose(0, 1), self.core[modality]).transpose(0, 1)

    def _new_core(self) -> nn.Parameter:
        """As `nn.Linear` starts: uniform within 1 / sqrt(width of the input)."""
        core = torch.empty(self.chunks, self.chunk_dim, self.rank * self.chunk_dim)
        return nn.Parameter(nn.init.uniform_(core, -(self.chunk_dim**-0.5), self.chunk_dim**-0.5))
