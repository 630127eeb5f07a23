"""Variational information distillation: the teacher's layer, given the student's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import AdaptedLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tokens import TokenGrid, as_map, map_shape, pooled_alike

_LEAST = 1e-5
"""Variance that is always there."""


def variational_information(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """(1/2) * mean((mu - t)^2 / sigma^2 + log sigma^2) over all elements, in nats but for a constant.

    Args:
        mean: mu, what the student predicts, "batch channels ...".
        variance: sigma^2 > 0, "channels".
        teacher: t, of the shape of `mean`; no gradient flows into it.

    Returns:
        0-d tensor; it may be negative.

    Source: Ahn et al., Variational Information Distillation (1904.05835), equations 2 and 3.

    >>> x = torch.zeros(2, 3)
    >>> variational_information(x, torch.ones(3), x + 2.0).item()
    2.0
    """
    if not mean.numel():
        return mean.sum()
    v = variance.view(-1, *[1] * (mean.ndim - 2))
    return ((mean - teacher.detach()).square() / v + v.log()).mean() / 2


class VariationalInformation(AdaptedLoss):
    """`variational_information` of a layer of the teacher under a normal the student predicts.

    The mean comes from three linear layers (1x1 convolutions for maps) with ReLU between them; the variance,
    one a channel, is softplus(a) + 1e-5 with trained a. The usual weight is 1.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        variance: Where each variance starts.
        student_grid: Where the student's tokens lie, to compare them as a map.
        teacher_grid: Where the teacher's do.

    Raises:
        ConfigError: If the variance is not above 1e-5; in the dry run, if a map meets a vector.

    Source: as `variational_information`, section 3; mean and variance as in the CRD benchmark's version.
    """

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        variance: float = 5.0,
        student_grid: TokenGrid | None = None,
        teacher_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__([student], [teacher])
        if not _LEAST < variance < math.inf:
            raise ConfigError(
                where="VariationalInformation.variance",
                found=variance,
                expected=f"a number above {_LEAST}",
                fix="try 5.0",
            )
        self.variance = variance
        self.student_grid, self.teacher_grid = student_grid, teacher_grid

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """The network for the mean, and one parameter a channel for the variance."""
        (s,), (t,) = student, teacher
        maps = max(len(s), len(t)) > 1
        if maps:
            s, t = map_shape(s, self.student_grid), map_shape(t, self.teacher_grid)
        widths = [(s[0], t[0]), (t[0], t[0]), (t[0], t[0])]
        layers: list[nn.Module] = []
        for i, o in widths:
            layers += [nn.Conv2d(i, o, 1) if maps else nn.Linear(i, o), nn.ReLU()]
        self.mean = nn.Sequential(*layers[:-1])
        self.scale = nn.Parameter(torch.full((t[0],), _inverse_softplus(self.variance - _LEAST)))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats but for a constant."""
        ((s, t),) = self.pairs(student, teacher, batch)
        if isinstance(self.mean[0], nn.Conv2d):
            s, t = pooled_alike(as_map(s, self.student_grid), as_map(t, self.teacher_grid))
        return variational_information(self.mean(s), F.softplus(self.scale) + _LEAST, t)


def _inverse_softplus(x: float) -> float:
    return x + math.log(-math.expm1(-x))
