"""Knowledge review: deep layers of the student help its shallow ones to follow the teacher."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import AdaptedLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tokens import TokenGrid, as_map

_SIDES: Final = (4, 2, 1)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps and of their poolings to 4x4, 2x2 and 1x1.

    They weigh 1, 1/2, 1/4 and 1/8, scaled to a sum of 1 over the sizes that are smaller than the map.

    Args:
        student: Map "batch channels height width".
        teacher: The same shape; no gradient flows into it.

    Returns:
        0-d tensor >= 0.

    Source: Chen et al., Distilling Knowledge via Knowledge Review (2104.09044), section 3.3. The weights are
    those of the authors' code.

    >>> hierarchical_context(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0)).item()
    9.0
    """
    if not student.numel():
        return student.sum()
    teacher = teacher.detach()
    value, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _SIDES:
        if side < min(student.shape[2:]):
            weight /= 2
            total += weight
            s, t = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
            value = value + weight * F.mse_loss(s, t)
    return value / total


class Review(AdaptedLoss):
    """The sum of `hierarchical_context` over layers, the student's fused from the deepest to the shallowest.

    The deepest layer of the student is projected; each shallower one is mixed, by an attention map, with what
    came from below it, and projected to the teacher's channels and size. The usual weight is 1 (up to 8 for
    some pairs of models), warmed up over 20 epochs.

    Args:
        student: Names of the student's layers from shallow to deep, see `ModelOutput.at`.
        teacher: As many of the teacher's.
        width: Channels of the fused maps; the paper has up to 512.
        student_grid: Where the student's tokens lie, if some of its layers are tokens.
        teacher_grid: Where the teacher's do.

    Raises:
        ConfigError: If the width is below 1; in the dry run, if a layer is no map.

    Source: 2104.09044, sections 3.2 and 3.3, with the authors' 1x1 and 3x3 convolutions, batch normalisation
    and nearest interpolation. Their code adds the pooled last feature as one more layer; a vector such as
    "embedding" is a map of one position here.
    """

    def __init__(
        self,
        student: list[str],
        teacher: list[str],
        width: int = 256,
        student_grid: TokenGrid | None = None,
        teacher_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__(student, teacher)
        if width < 1:
            raise ConfigError(where="Review.width", found=width, expected="1 or more", fix="try 256")
        self.width, self.student_grid, self.teacher_grid = width, student_grid, teacher_grid

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """One fusion block a pair."""
        s = [_any_map(torch.empty(1, *x, device="meta"), self.student_grid).shape[1] for x in student]
        t = [_any_map(torch.empty(1, *x, device="meta"), self.teacher_grid).shape[1] for x in teacher]
        deepest = len(s) - 1
        self.blocks = nn.ModuleList(
            ReviewBlock(ours, self.width, theirs, fuses=at < deepest)
            for at, (ours, theirs) in enumerate(zip(s, t, strict=True))
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        pairs = self.pairs(student, teacher, batch)
        if not len(pairs[0][0]):
            return torch.stack([s.sum() for s, _ in pairs]).sum()
        total, below = student.logits.new_zeros(()), None
        for (s, t), block in reversed(list(zip(pairs, self.blocks, strict=True))):
            t = _any_map(t, self.teacher_grid)
            out, below = block(_any_map(s, self.student_grid), below, t.shape[2:])
            total = total + hierarchical_context(out, t)
        return total


class ReviewBlock(nn.Module):
    """Mixes a map with the one from below by attention, and projects it.

    Args:
        channels: Of the student's layer.
        width: Of the fused map.
        out: Channels of the teacher's layer.
        fuses: Whether there is a map from below.

    Source: 2104.09044, section 3.3, attention based fusion.
    """

    def __init__(self, channels: int, width: int, out: int, fuses: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.leave = nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, x: Tensor, below: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The projected map at `size`, and the fused map for the layer above."""
        x = _projected(self.enter, x)
        if self.attention is not None:
            assert below is not None
            below = F.interpolate(below, x.shape[2:], mode="nearest")
            share = self.attention(torch.cat([x, below], dim=1))
            x = x * share[:, :1] + below * share[:, 1:]
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="nearest")
        return _projected(self.leave, x), x


def _any_map(x: Tensor, grid: TokenGrid | None) -> Tensor:
    return x[:, :, None, None] if x.ndim == 2 else as_map(x, grid)


def _projected(layers: nn.Sequential, x: Tensor) -> Tensor:
    convolution, norm = layers.children()
    x = convolution(x)
    # One value a channel, as in a last batch of one, has no variance: it is normalised as in evaluation.
    if isinstance(norm, nn.BatchNorm2d) and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)
