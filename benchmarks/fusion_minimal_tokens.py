"""Fusion heads that attend, in as few lines as a paper's code has; see `fusion_minimal.py`."""

# ruff: noqa: D101

from __future__ import annotations

from collections.abc import Sequence

import torch
from fusion_minimal import layers
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.project = layers(dims, out)
        self.modality_embedding = nn.Parameter(torch.randn(len(dims), out))
        self.query_key_value = nn.Linear(out, 3 * out)
        self.output = nn.Linear(out, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: list[Tensor]) -> Tensor:
        t = torch.stack([layer(v) for layer, v in zip(self.project, x, strict=True)], dim=1)
        t = t + self.modality_embedding
        qkv = self.query_key_value(t).unflatten(2, (3, self.heads, -1)).unbind(dim=2)
        y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in qkv))
        return self.norm(t + self.output(y.transpose(1, 2).flatten(2))).mean(dim=1)


class Layer(nn.Module):
    """Pre-norm; makes `projections` of query, key and value itself."""

    def __init__(self, width: int, heads: int = 4, projections: int = 3) -> None:
        super().__init__()
        self.heads, self.projections = heads, projections
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, projections * width)
        self.output = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """For each "batch heads tokens dim"."""
        return [t.transpose(1, 2) for t in x.unflatten(2, (parts, self.heads, -1)).unbind(dim=2)]

    def forward(self, x: Tensor, key_value: Sequence[Tensor] = (), first: int | None = None) -> Tensor:
        q, k, v = *self.split(self.project(self.norm(x)), self.projections), *key_value
        attended = F.scaled_dot_product_attention(q[:, :, :first], k, v)
        y = x[:, :first] + self.output(attended.transpose(1, 2).flatten(2))
        return y + self.reduce(F.gelu(self.expand(self.hidden_norm(y))))


class TokenAttention(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128) -> None:
        super().__init__()
        self.project = layers(dims, out)
        self.class_token = nn.Parameter(torch.zeros(out))
        self.layers = nn.ModuleList([Layer(out)])
        self.norm = nn.LayerNorm(out)

    def forward(self, x: list[Tensor]) -> Tensor:
        t = [layer(v) for layer, v in zip(self.project, x, strict=True)]
        t = torch.cat([self.class_token.expand(len(x[0]), 1, -1), *t], dim=1)
        return self.norm(self.layers[0](t, first=1)[:, 0])


class Bottleneck(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, bottlenecks: int = 4) -> None:
        super().__init__()
        self.project = layers(dims, out)
        self.class_tokens = nn.Parameter(torch.zeros(len(dims), out))
        self.bottlenecks = nn.Parameter(torch.zeros(bottlenecks, out))
        self.layers = nn.ModuleList(nn.ModuleList(Layer(out) for _ in dims) for _ in range(2))
        self.norm = nn.LayerNorm(out)

    def forward(self, x: list[Tensor]) -> Tensor:
        size, n = len(x[0]), len(self.bottlenecks)
        b, t = self.bottlenecks.expand(size, -1, -1), []
        for layer, token, v in zip(self.project, self.class_tokens, x, strict=True):
            t.append(torch.cat([token.expand(size, 1, -1), layer(v), b], dim=1))
        t = [layer(v) for layer, v in zip(self.layers[0], t, strict=True)]
        b = torch.stack([v[:, -n:] for v in t]).mean(dim=0)
        t = [torch.cat([v[:, :-n], b], dim=1) for v in t]
        t = [layer(v, first=1)[:, 0] for layer, v in zip(self.layers[1], t, strict=True)]
        return self.norm(torch.stack(t)).mean(dim=0)


class Crossmodal(nn.Module):
    """From a source to another modality, in two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, projections=1) for _ in range(2))
        self.key_value = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        for layer, key_value in zip(self.layers, self.key_value, strict=True):
            x = layer(x, layer.split(key_value(source), 2))
        return x


class CrossTarget(nn.Module):
    def __init__(self, others: int, width: int) -> None:
        super().__init__()
        self.crossmodal = nn.ModuleList(Crossmodal(width) for _ in range(others))
        self.memory = nn.ModuleList([Layer(others * width)])
        self.norm = nn.LayerNorm(others * width)

    def forward(self, x: Tensor, sources: list[Tensor]) -> Tensor:
        z = torch.cat([f(x, s) for f, s in zip(self.crossmodal, sources, strict=True)], dim=2)
        return self.norm(self.memory[0](z)).mean(dim=1)


class Cross(nn.Module):
    def __init__(self, dims: Sequence[int], out: int = 128, width: int = 32) -> None:
        super().__init__()
        m = len(dims)
        self.project = layers(dims, width, bias=False)
        self.targets = nn.ModuleList(CrossTarget(m - 1, width) for _ in dims)
        self.output = nn.Linear(m * (m - 1) * width, out)
        place, column = torch.arange(512.0)[:, None], torch.arange(0, width, 2) / width
        angles = place / 10000**column
        places = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: list[Tensor]) -> Tensor:
        z = [layer(v) + self.places[: v.shape[1]] for layer, v in zip(self.project, x, strict=True)]
        s = [F.layer_norm(v, v.shape[2:]) for v in z]
        h = [target(z[i], s[:i] + s[i + 1 :]) for i, target in enumerate(self.targets)]
        return self.output(torch.cat(h, dim=1))
