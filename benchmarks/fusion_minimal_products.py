"""Fusion heads that multiply modalities, in as few lines as a paper's code has; see `fusion_minimal.py`."""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from fusion_minimal import layers
from torch import Tensor, nn
from torch.nn import functional as F


def product(parts: list[Tensor]) -> Tensor:
    """Entry by entry."""
    return reduce(torch.mul, parts)


def power_normalized(z: Tensor) -> Tensor:
    """Signed square root and L2 norm, with the package's constants, or the outputs would differ."""
    return F.normalize(z / (z.abs() + 1e-6).sqrt(), dim=-1, eps=1e-3)


class MLB(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, hidden: int = 256) -> None:
        super().__init__()
        self.project = layers(dims, hidden)
        self.out = nn.Linear(hidden, out)

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.out(product([layer(v).tanh() for layer, v in zip(self.project, x, strict=True)]))


class MFB(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.project = layers(dims, out * factor, bias=False)

    def forward(self, x: list[Tensor]) -> Tensor:
        p = product([layer(v) for layer, v in zip(self.project, x, strict=True)])
        return power_normalized(p.unflatten(1, (-1, self.factor)).sum(dim=2))


class MUTAN(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, core: int = 64, rank: int = 5) -> None:
        super().__init__()
        self.rank = rank
        self.project = layers(dims, core, bias=False)
        self.core = layers([core] * len(dims), rank * out, bias=False)

    def forward(self, x: list[Tensor]) -> Tensor:
        parts = zip(self.core, self.project, x, strict=True)
        p = product([core(layer(v).tanh()) for core, layer, v in parts])
        return p.unflatten(1, (self.rank, -1)).sum(dim=1)


class CountSketch(nn.Module):
    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("index", torch.randint(size, (dim,)))
        self.register_buffer("sign", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.size).index_add_(1, self.index, x * self.sign)


class MCB(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, size: int = 1024) -> None:
        super().__init__()
        self.size = size
        self.sketch = nn.ModuleList(CountSketch(d, size) for d in dims)
        self.out = nn.Linear(size, out)

    def forward(self, x: list[Tensor]) -> Tensor:
        spectrum = product([torch.fft.rfft(layer(v)) for layer, v in zip(self.sketch, x, strict=True)])
        return self.out(power_normalized(torch.fft.irfft(spectrum, self.size)))


class BLOCK(nn.Module):
    def __init__(
        self, dims: Sequence[int], out: int = 128, core: int = 256, chunks: int = 16, rank: int = 5
    ) -> None:
        super().__init__()
        self.chunks, self.rank, width = chunks, rank, core // chunks
        self.project = layers(dims, core, bias=False)
        self.core = nn.ParameterList(torch.randn(chunks, width, rank * width) for _ in dims)
        self.out = nn.Linear(core, out)

    def forward(self, x: list[Tensor]) -> Tensor:
        parts = []
        for layer, core, v in zip(self.project, self.core, x, strict=True):
            parts.append(torch.bmm(layer(v).unflatten(1, (self.chunks, -1)).transpose(0, 1), core))
        z = product(parts).unflatten(2, (self.rank, -1)).sum(dim=2).transpose(0, 1)
        return self.out(power_normalized(z).flatten(1))


class TensorProduct(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, factor: int = 16) -> None:
        super().__init__()
        self.project = layers(dims, factor)
        self.output = nn.Linear((factor + 1) ** len(dims), out)

    def forward(self, x: list[Tensor]) -> Tensor:
        one = x[0].new_ones(len(x[0]), 1)
        h = [torch.cat([one, layer(v)], dim=1) for layer, v in zip(self.project, x, strict=True)]
        return self.output(reduce(lambda a, b: (a[:, :, None] * b[:, None]).flatten(1), h))


class LowRank(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, rank: int = 4) -> None:
        super().__init__()
        self.factors = layers(dims, out * rank)
        self.rank_weights = nn.Parameter(torch.randn(rank))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: list[Tensor]) -> Tensor:
        p = product([layer(v) for layer, v in zip(self.factors, x, strict=True)])
        return p.unflatten(1, (len(self.bias), -1)) @ self.rank_weights + self.bias
