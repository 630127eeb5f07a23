"""Attention transfer: where a layer is active."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.losses.base import MapLoss
from lightning_distill.tokens import pooled_alike


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((q_s - q_t)^2) over samples and positions, where q = a / |a|_2 and a = mean over channels of x^2.

    Args:
        student: Map "batch channels height width", any number of channels.
        teacher: Map; no gradient flows into it. The larger of the two is pooled to the smaller first.

    Returns:
        0-d tensor >= 0; 0 when both are active at the same places.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention (1612.03928), section 3.1. This is the
    form of the authors' code; the paper's equation 2 has the norm |q_s - q_t| of each sample instead of the
    mean square.

    >>> x = torch.rand(2, 3, 4, 4)
    >>> attention_transfer(x, 5 * x.repeat(1, 2, 1, 1)).item() < 1e-12
    True
    """
    if not student.numel():
        return student.sum()
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = pooled_alike(student.to(wide), teacher.detach().to(wide))
    return F.mse_loss(_attention(s), _attention(t)).to(student.dtype)


class AttentionTransfer(MapLoss):
    """The sum of `attention_transfer` over pairs of layers.

    It compares where, not what: channels may differ, and nothing is trained beside the student. The usual
    weight is 1000, as in the authors' code. The paper has beta / 2 before its other form, with a beta of 1000
    divided by the number of positions and samples, about 0.1.

    Args:
        student: Names of the student's layers, see `ModelOutput.at`.
        teacher: As many of the teacher's.
        student_grid: Where the student's tokens lie, if its layers are tokens.
        teacher_grid: Where the teacher's do.

    Source: as `attention_transfer`.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`attention_transfer`."""
        return attention_transfer(student, teacher)


def _attention(x: Tensor) -> Tensor:
    return F.normalize(x.square().mean(dim=1).flatten(1), dim=1)
