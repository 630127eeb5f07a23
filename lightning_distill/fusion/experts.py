"""Fusion by a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.fusion.base import FusionHead
from lightning_distill.sizes import check_sizes


class MixtureOfExpertsFusion(FusionHead):
    """Several networks read all modalities; a gate says, for each sample, how much each of them counts.

    With v = [x_1; ...; x_M], zeros in the place of an absent modality, and p the M presence bits:

    - experts: E_e(v) = V_e gelu(U_e v + c_e) + b_e
    - gate: a = softmax over the experts of G [v; p]
    - x = sum_e a_e E_e(v)

    It is dense: every expert is evaluated for every sample. By p the gate can choose experts by which
    modalities are there. The biases b_e start at 0.

    Args:
        feature_dims: modality -> width of its feature.
        output_dim: Width of x.
        num_experts: Networks to mix.
        hidden_dim: Width of each expert's hidden layer.

    Raises:
        ConfigError: If there is no modality, no expert, or a width below 1.

    Source: Jacobs et al., Adaptive Mixtures of Local Experts (Neural Computation 3, 1991); written as in
    Shazeer et al. (1701.06538), equation 1 with the gate of equation 2, which is neither sparse nor noisy.
    Differs from Jacobs et al. in that the mixed output is trained on the task, not each expert on its own
    error, and from both in the presence bits.
    """

    def __init__(
        self,
        feature_dims: Mapping[str, int],
        output_dim: int = 128,
        num_experts: int = 4,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__(feature_dims, output_dim)
        check_sizes("MixtureOfExpertsFusion", {"num_experts": num_experts, "hidden_dim": hidden_dim})
        total = sum(feature_dims.values())
        self.gate = nn.Linear(total + len(feature_dims), num_experts, bias=False)
        self.hidden = nn.Linear(total, num_experts * hidden_dim)
        self.output = nn.Linear(num_experts * hidden_dim, output_dim, bias=False)
        # As wide as an expert's own output layer would start: it reads hidden_dim numbers, not all of them.
        nn.init.uniform_(self.output.weight, -(hidden_dim**-0.5), hidden_dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_experts, output_dim))

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Mix what the experts say: "batch output_dim"."""
        inputs = torch.cat([features[m] for m in self.modalities], dim=1)
        gate = self.gate(torch.cat([inputs, mask.to(inputs.dtype)], dim=1)).softmax(dim=1)
        hidden = nn.functional.gelu(self.hidden(inputs)).unflatten(1, (len(self.bias), -1))
        # a_e V_e h = V_e (a_e h): weighed before the output layers, the experts need one product for all.
        weighed = hidden * gate.to(hidden.dtype)[:, :, None]
        x: Tensor = self.output(weighed.flatten(1)) + gate @ self.bias
        return x
