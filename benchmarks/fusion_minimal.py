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
from torch.nn import functional as F


def layers(dims: Sequence[int], out: int, bias: bool = True) -> nn.ModuleList:
    """A linear layer a modality."""
    return nn.ModuleList(nn.Linear(d, out, bias=bias) for d in dims)


class Sum(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128) -> None:
        super().__init__()
        self.project = layers(dims, out)

    def forward(self, x: list[Tensor]) -> Tensor:
        first, *others = (layer(v) for layer, v in zip(self.project, x, strict=True))
        return sum(others, first)


class Mean(Sum):
    def forward(self, x: list[Tensor]) -> Tensor:
        return super().forward(x) / len(x)


class Weighted(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128) -> None:
        super().__init__()
        self.project = layers(dims, out)
        self.scores = nn.Parameter(torch.zeros(len(dims)))

    def forward(self, x: list[Tensor]) -> Tensor:
        parts = zip(self.scores.softmax(dim=0), self.project, x, strict=True)
        first, *others = (a * layer(v) for a, layer, v in parts)
        return sum(others, first)


class Concat(nn.Module):
    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, dim=1)


class ConcatMLP(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(dims), hidden)
        self.output = nn.Linear(hidden, out)

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.output(F.gelu(self.hidden(torch.cat(x, dim=1))))


class DeepSets(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.project = layers(dims, hidden)
        self.phi = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.rho = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, x: list[Tensor]) -> Tensor:
        t = torch.stack([layer(v) for layer, v in zip(self.project, x, strict=True)], dim=1)
        return self.rho(self.phi(t).sum(dim=1))


class Late(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = layers(dims, hidden)
        self.output = layers([hidden] * len(dims), out)

    def forward(self, x: list[Tensor]) -> Tensor:
        parts = zip(self.hidden, self.output, x, strict=True)
        first, *others = (output(F.gelu(hidden(v))) for hidden, output, v in parts)
        return sum(others, first) / len(x)


class Experts(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, experts: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.gate = nn.Linear(sum(dims), experts)
        self.hidden = nn.Linear(sum(dims), experts * hidden)
        self.output = nn.Linear(experts * hidden, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(experts, out))

    def forward(self, x: list[Tensor]) -> Tensor:
        v = torch.cat(x, dim=1)
        a = self.gate(v).softmax(dim=1)
        h = F.gelu(self.hidden(v)).unflatten(1, (len(self.bias), -1)) * a[:, :, None]
        return torch.addmm(self.output(h.flatten(1)), a, self.bias)


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
        parts = []
        for i, v in enumerate(x):
            first, *others = c[:i] + c[i + 1 :]
            scale, shift = self.modulation[i](sum(others, first)).chunk(2, dim=1)
            parts.append(torch.addcmul(shift, scale, self.project[i](v)))
        return sum(parts[1:], parts[0])
