"""Fusion heads in as few lines as a paper's code has: no masks, no checks, no names of modalities.

What `fusion_cost.py` compares with. `forward` takes the features as a list, in alphabetical order of the
modalities. Parameters are called as in the package with numbers in the place of modalities, so that weights
can be copied and both must give the same output. Here are those that add up or gate; the products stand in
`fusion_minimal_products.py`, what reads tokens or attends in `fusion_minimal_tokens.py`.
"""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def layers(dims: Sequence[int], out: int, bias: bool = True) -> nn.ModuleList:
    """A linear layer a modality."""
    return nn.ModuleList(nn.Linear(d, out, bias=bias) for d in dims)


class Concat(nn.Module):
    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, dim=1)


class Gated(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128) -> None:
        super().__init__()
        self.hidden = layers(dims, out, bias=False)
        self.gate = nn.Linear(sum(dims), len(dims) * out, bias=False)

    def forward(self, x: list[Tensor]) -> Tensor:
        h = torch.cat([layer(v) for layer, v in zip(self.hidden, x, strict=True)], dim=1).tanh()
        z = self.gate(torch.cat(x, dim=1)).sigmoid()
        return (z * h).unflatten(1, (len(x), -1)).sum(dim=1)


class FiLM(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128) -> None:
        super().__init__()
        self.project = layers(dims, out)
        self.condition = layers(dims, out, bias=False)
        self.modulation = layers([out] * len(dims), 2 * out)

    def forward(self, x: list[Tensor]) -> Tensor:
        c = [layer(v) for layer, v in zip(self.condition, x, strict=True)]
        total = 0
        for i, v in enumerate(x):
            scale, shift = self.modulation[i](sum(c[:i] + c[i + 1 :])).chunk(2, dim=1)
            total = total + scale * self.project[i](v) + shift
        return total
