"""Overhaul of feature distillation: margin ReLU and a distance that forgives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.losses.base import AdaptedLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tokens import as_map, map_shape, pooled_alike


def overhaul(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """(1/B) * sum over elements of d(s, max(t, m)), where d(s, t) = 0 if s <= t <= 0, else (s - t)^2.

    Args:
        student: Map "batch channels height width", already brought to the teacher's channels.
        teacher: The same shape, before the ReLU; no gradient flows into it.
        margin: m <= 0, "channels".

    Returns:
        0-d tensor >= 0.

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation (1904.01866), equations 1 to 4.

    >>> t = torch.tensor([[[[-3.0, 2.0]]]])
    >>> overhaul(torch.tensor([[[[-5.0, 1.0]]]]), t, torch.tensor([-1.0])).item()
    1.0
    """
    if not len(student):
        return student.sum()
    aim = torch.maximum(teacher.detach().to(student.dtype), margin[:, None, None].to(student.dtype))
    counts = (student > aim) | (aim > 0)
    # Where nothing counts, the aim is compared with itself.
    return F.mse_loss(student.where(counts, aim), aim, reduction="sum") / len(student)


def negative_mean(teacher: Tensor) -> Tensor:
    """E[x | x < 0] of each channel over batch and positions, 0 where none is negative: "channels".

    Args:
        teacher: Map "batch channels height width", before the ReLU.

    Source: 1904.01866, section 3.2: the margin is the expected negative response. The authors take it from
    the batch normalisation before the ReLU, whose output they assume normal; here it is that of the batch.

    >>> negative_mean(torch.tensor([[[[-3.0, -1.0, 2.0]]], [[[4.0, 4.0, -2.0]]]])).tolist()
    [-2.0]
    """
    teacher = teacher.to(torch.promote_types(teacher.dtype, torch.float32))  # a sum over a map, in fp16
    negative = teacher < 0
    total = (teacher * negative).sum(dim=(0, 2, 3))
    return total / negative.sum(dim=(0, 2, 3)).clamp(min=1)


class Overhaul(AdaptedLoss):
    """`overhaul` summed over pairs of layers, the l-th of L with weight 2^-(L - l), the deepest with 1.

    The student's layer goes through a trained 1x1 convolution and batch normalisation. Name layers before
    their ReLU; after it the margin is 0. The usual weight is 0.001. The authors leave the teacher's batch
    normalisation in training mode; teachers here are in eval mode.

    Args:
        student: Names of the student's layers from shallow to deep, see `ModelOutput.at`.
        teacher: As many of the teacher's.

    Source: as `overhaul`, section 3.
    """

    def __init__(self, student: list[str], teacher: list[str]) -> None:
        super().__init__(student, teacher)

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """One 1x1 convolution with batch normalisation a pair."""
        channels = [(map_shape(s)[0], map_shape(t)[0]) for s, t in zip(student, teacher, strict=True)]
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t)) for s, t in channels
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        pairs = self.pairs(student, teacher, batch)
        total = student.logits.new_zeros(())
        for depth, ((s, t), connector) in enumerate(zip(pairs, self.connectors, strict=True), 1):
            if not len(s):
                total = total + s.sum()
                continue
            s, t = pooled_alike(as_map(s), as_map(t))
            value = overhaul(_connected(connector, s), t, negative_mean(t))
            total = total + value / 2 ** (len(pairs) - depth)
        return total


def _connected(layers: nn.Module, x: Tensor) -> Tensor:
    convolution, norm = layers.children()
    x = convolution(x)
    # One value a channel, as in a last batch of one, has no variance: it is normalised as in evaluation.
    if isinstance(norm, nn.BatchNorm2d) and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)
