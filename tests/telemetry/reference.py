"""Gradients to look at, and what is to be told of them: sums over every entry, in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_distill.gradients import Gradients
from lightning_distill.telemetry.gradients import GradientTelemetry, group_of

Edit = Callable[[Tensor], object]


def clamp(grad: Tensor) -> Tensor:
    return grad.clamp_(-0.7, 0.7)


def observe(
    grads: dict[str, Tensor], edit: Edit, telemetry: GradientTelemetry | None = None, step: int = 0
) -> dict[str, float]:
    gradients = as_gradients(grads, step)
    telemetry = telemetry or GradientTelemetry()
    telemetry.before(gradients)
    for grad in gradients.local:
        edit(grad)
    return {name: value.item() for name, value in telemetry.after().items()}


def as_gradients(grads: dict[str, Tensor], step: int = 0) -> Gradients:
    weights = tuple(nn.Parameter(torch.empty_like(g)) for g in grads.values())
    return Gradients(tuple(grads), weights, tuple(grads.values()), step)


def reference(grads: dict[str, Tensor], edit: Edit) -> dict[str, float]:
    """The definitions, over every entry."""
    sides: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, grad in grads.items():
        after = grad.clone()
        edit(after)
        pair = (grad.double().numpy().reshape(-1), after.double().numpy().reshape(-1))
        sides.setdefault(group_of(name), []).append(pair)
    found = {}
    for group, pairs in sides.items():
        g, h = (np.concatenate(side) for side in zip(*pairs, strict=True))
        found[f"norm_before/{group}"] = np.sqrt((g**2).sum())
        found[f"norm_after/{group}"] = np.sqrt((h**2).sum())
        found[f"clipped_share/{group}"] = np.mean(g != h)
        found[f"zero_share/{group}"] = np.mean(g == 0)
        found[f"cosine/{group}"] = (g @ h) / np.sqrt((g @ g) * (h @ h))
        even = sum(np.abs(b).sum() ** 2 / max((a != 0).sum(), 1) for a, b in pairs)
        found[f"evenness/{group}"] = even / (h @ h)
    return {name: float(value) for name, value in found.items()}


def small() -> dict[str, Tensor]:
    torch.manual_seed(0)
    grads = {
        "encoders.image.conv.weight": torch.randn(4, 3, 5, 5),
        "encoders.image.conv.bias": torch.randn(4) * 3,
        "encoders.text.embedding.weight": torch.randn(30, 128),
        "fusion.scale": torch.tensor(2.0),
        "head.weight": torch.randn(7, 19),
        "losses.hint.adaptor.weight": torch.randn(64, 64),
    }
    grads["encoders.text.embedding.weight"][10:] = 0
    return grads


def large(seed: int = 0) -> dict[str, Tensor]:
    """Entries have heavy tails, and rows differ in size by a factor of about 1.6 either way."""
    torch.manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        rows = torch.randn(shape[0], *[1] * (len(shape) - 1)).mul(0.5).exp()
        return rows * torch.randn(shape) * torch.randn(shape).mul(0.5).exp()

    return {
        "encoders.image.a.weight": draw(256, 128, 3, 3),
        "encoders.image.a.bias": draw(256),
        "encoders.text.b.weight": draw(1536, 384),
        "encoders.text.c.weight": draw(384, 384),
        "head.weight": draw(40, 512),
    }


def layouts() -> dict[str, Tensor]:
    """The same values lie otherwise in memory."""
    torch.manual_seed(1)
    base = torch.randn(64, 32, 5, 5)
    return {
        "encoders.image.last": base.contiguous(memory_format=torch.channels_last),
        "encoders.image.turned": torch.randn(70, 90).t(),
        "encoders.image.gaps": torch.randn(80, 120)[:, ::2],
        "encoders.image.few": torch.randn(50, 4)[:, 1],
        "encoders.image.within": torch.randn(9000)[77:8000],
        "encoders.image.none": torch.randn(0, 3),
        "encoders.image.one": torch.randn(3)[2],
    }
