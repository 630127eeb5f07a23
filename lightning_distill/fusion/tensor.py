"""Fusion by the outer product of all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from lightning_distill.absence import filled
from lightning_distill.errors import ConfigError
from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_sizes

LARGEST: Final = 2**28
"""Weights of the last layer above which it is surely a mistake: 1 GiB in float32."""


class TensorFusion(FusionHead):
    """Tensor fusion network (TFN): a linear map of every product of the modalities' entries.

    - h_m = W_m x_m + b_m where x_m is present, else 0
    - z = [1; h_1] (x) ... (x) [1; h_M], the outer product, in alphabetical order; the 1 comes first
    - x = W z + b

    z is flattened with the last modality running fastest: of three with d = factor_dim + 1 entries each,
    [1; h_1][i] [1; h_2][j] [1; h_3][k] is entry (i d + j) d + k. So entry 0 is 1, those next to it are h_M.
    An absent modality is [1; 0]: the products of the others stay, all that it would be in are 0. The last
    layer has output_dim * (factor_dim + 1)^M weights.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        factor_dim: Width of each h_m.

    Raises:
        ConfigError: If factor_dim is below 1, or the last layer would have more than 2^28 weights.

    Source: Zadeh et al., Tensor Fusion Network for Multimodal Sentiment Analysis (1707.07250), section 4.2.
    h_m stands for what the paper's embedding networks end in. Differs from the authors' network, which goes
    on with hidden layers and a sigmoid scaled to the data's range: that is the task head's part.

    >>> TensorFusion({"image": 64, "text": 32}, output_dim=8, factor_dim=4).output
    Linear(in_features=25, out_features=8, bias=True)
    """

    def __init__(self, feature_dims: Mapping[str, int], output_dim: int = 128, factor_dim: int = 16) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("TensorFusion", {"factor_dim": factor_dim})
        size = (factor_dim + 1) ** len(feature_dims)
        if size * output_dim > LARGEST:
            raise ConfigError(
                where="TensorFusion.factor_dim",
                found=f"{factor_dim}: with {len(feature_dims)} modalities and output_dim = {output_dim}, "
                f"{size * output_dim} weights",
                expected=f"output_dim * (factor_dim + 1)^{len(feature_dims)} of at most {LARGEST}",
                fix="set a smaller factor_dim, or take LowRankFusion, whose weights grow with the sum of the "
                "modalities' widths, not with their product",
            )
        self.project = nn.ModuleDict({m: nn.Linear(dim, factor_dim) for m, dim in self.feature_dims.items()})
        self.output = nn.Linear(size, output_dim)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Multiply out and map: "batch output_dim"."""
        products = self._factor(0, features, mask)
        for i in range(1, len(self.modalities)):
            factor = self._factor(i, features, mask)
            products = (products[:, :, None] * factor[:, None, :]).flatten(1)
        x: Tensor = self.output(products)
        return x

    def _factor(self, i: int, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """[1; h_m] of the i-th modality, "batch factor_dim+1"."""
        modality = self.modalities[i]
        hidden = filled(self.project[modality](features[modality]), mask[:, i])
        return functional.pad(hidden, (1, 0), value=1.0)
