"""Neuron selectivity transfer: the distribution of what channels respond to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.losses.base import MapLoss
from lightning_distill.tokens import pooled_alike


def neuron_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of MMD^2 between the channels of two maps, with the kernel k(x, y) = (x . y)^2.

    A channel is the vector of its responses over all positions, divided by its norm. The MMD is the biased
    one, mean k(s, s') + mean k(t, t') - 2 mean k(s, t), which is computed as |S^T S / C_s - T^T T / C_t|_F^2
    where there are fewer positions than channels: O(C (HW)^2), else from channels: O(C^2 HW).

    Args:
        student: Map "batch channels height width".
        teacher: Map; no gradient flows into it. The larger of the two is pooled to the smaller first.

    Returns:
        0-d tensor >= 0 but for rounding; 0 when both have the same channels, in whatever order.

    Source: Huang and Wang, Neuron Selectivity Transfer (1707.01219), equation 5 with the polynomial kernel of
    section 3.3 (d = 2, c = 0).

    >>> x = torch.rand(2, 3, 4, 4)
    >>> neuron_selectivity(x, x.flip(1)).abs().item() < 1e-6
    True
    """
    if not student.numel():
        return student.sum()
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = pooled_alike(student.to(wide), teacher.detach().to(wide))
    s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    if s.shape[2] <= max(s.shape[1], t.shape[1]):
        grams = [x.transpose(1, 2) @ x / x.shape[1] for x in (s, t)]
        value = (grams[0] - grams[1]).square().sum(dim=(1, 2)).mean()
    else:
        value = _kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t)
    return value.to(student.dtype)


class NeuronSelectivity(MapLoss):
    """The sum of `neuron_selectivity` over pairs of layers. The usual weight is 50.

    Args:
        student: Names of the student's layers, see `ModelOutput.at`.
        teacher: As many of the teacher's.
        student_grid: Where the student's tokens lie, if its layers are tokens.
        teacher_grid: Where the teacher's do.

    Source: as `neuron_selectivity`.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`neuron_selectivity`."""
        return neuron_selectivity(student, teacher)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.transpose(1, 2)).square().mean()
