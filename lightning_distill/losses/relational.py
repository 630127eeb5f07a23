"""Relational distillation: distances between samples, and angles between three of them."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import LayerLoss
from lightning_distill.structures import Batch, ModelOutput

_CLOSE: Final = 1e-2
"""Squared distances below this share of the squared norms are computed in double precision."""
_BLOCK: Final = 256
"""Rows at a time, so that what is worked on stays in the cache."""
_SAME: Final = 1e-12
"""Squared distances below this share of the squared norms are 0."""


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / B^2) * sum_ij h(d_s[i, j] / mu_s - d_t[i, j] / mu_t).

    d[i, j] = |x_i - x_j|, mu the mean of those that are not 0, h(a) = a^2 / 2 for |a| < 1, else |a| - 1/2.
    The diagonal is 0 and counts in B^2.

    Args:
        student: "batch ...", flattened to vectors.
        teacher: "batch ...", of any other width; no gradient flows into it.

    Returns:
        0-d tensor >= 0; 0 for less than two rows.

    Source: Park et al., Relational Knowledge Distillation (1904.05068), equations 4 to 6. As in the authors'
    code, the mean is over B^2 where the paper writes a sum.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    >>> rkd_distance(x, 7 * x + 1).item() < 1e-9
    True
    """
    if len(student) < 2:
        return student.sum() * 0
    s = _relative(_distances(_squared_distances(student)))
    with torch.no_grad():
        t = _relative(_distances(_squared_distances(teacher))).to(s.dtype)
    return F.smooth_l1_loss(s, t).to(student.dtype)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / B^3) * sum_ijk h(c_s[i, j, k] - c_t[i, j, k]).

    c[i, j, k] = <e_ij, e_kj> with e_ij = (x_i - x_j) / |x_i - x_j| is the cosine of the angle at j, and 0
    where two of the rows are the same; h as in `rkd_distance`. Rows closer than a millionth of their distance
    from the mean of all count as the same: what lies between them has no direction, and gives no gradient.

    The cosines follow from the B^2 distances, one j at a time, so that memory grows with B^2; gradients are
    found in the same pass. Rows that are close to each other make all of it double precision, at twice the
    time.

    Args:
        student: "batch ...", flattened to vectors.
        teacher: "batch ...", of any other width; no gradient flows into it.

    Returns:
        0-d tensor >= 0; 0 for less than three rows.

    Source: Park et al., Relational Knowledge Distillation (1904.05068), equations 7 and 8. As in the authors'
    code, the mean is over B^3, with i, j and k equal or not, where the paper writes a sum.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    >>> rkd_angle(x, 7 * x + 1).item() < 1e-9
    True
    """
    if len(student) < 3:
        return student.sum() * 0
    s = _squared_distances(student)
    with torch.no_grad():
        t = _squared_distances(teacher)
    wide = torch.promote_types(s.dtype, t.dtype)
    value: Tensor = _Angle.apply(s.to(wide), t.to(wide))
    return value.to(student.dtype)


class RKD(LayerLoss):
    """distance * `rkd_distance` + angle * `rkd_angle`.

    Weight 1 with 25 and 50, as CRD's benchmark has them for classification; the paper has 1 and 2 for metric
    learning.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        distance: Weight of the distances, 0 or more.
        angle: Weight of the angles, 0 or more. The cost grows with B^3.
        gather: Whether each process compares the rows of all processes.

    Raises:
        ConfigError: If a weight is negative, or both are 0.

    Source: as `rkd_distance` and `rkd_angle`.
    """

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        distance: float = 25.0,
        angle: float = 50.0,
        gather: bool = False,
    ) -> None:
        super().__init__([student], [teacher], gather)
        if not (min(distance, angle) >= 0 < distance + angle < math.inf):
            raise ConfigError(
                where="RKD.distance, angle",
                found=(distance, angle),
                expected="two finite numbers of 0 or more, not both 0",
                fix="try 25.0 and 50.0",
            )
        self.distance, self.angle = distance, angle

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        ((s, t),) = self.pairs(student, teacher, batch)
        value = s.sum() * 0
        if self.distance:
            value = value + self.distance * rkd_distance(s, t)
        if self.angle:
            value = value + self.angle * rkd_angle(s, t)
        return value

    def extra_repr(self) -> str:
        """Show the weights."""
        return f"distance={self.distance}, angle={self.angle}, gather={self.gather}"


def _squared_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 "batch batch", in double precision where rows are close to each other."""
    x = x.flatten(1)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = x - x.mean(dim=0).detach()  # the largest part of what would cancel
    found, norms = _by_gram(x)
    if x.dtype != torch.float64:
        # Every row is close to itself; that is one a row.
        with torch.no_grad():
            close = (found <= _CLOSE * norms).sum() > len(x)
        if not close:
            return found
        found, norms = _by_gram(x.double())
    return found.where(found > _SAME * norms, 0)


def _by_gram(x: Tensor) -> tuple[Tensor, Tensor]:
    gram = x @ x.T
    squares = gram.diagonal()
    norms = squares[:, None] + squares
    found = torch.add(norms, gram, alpha=-2)
    return found.fill_diagonal_(0.0), norms.detach()


def _distances(squared: Tensor) -> Tensor:
    """Square roots, without a gradient at 0."""
    apart = squared > 0
    return squared.where(apart, 1).sqrt().where(apart, 0)


def _relative(distances: Tensor) -> Tensor:
    """Divided by the mean of those that are not 0."""
    count = (distances.detach() > 0).sum()
    mean = distances.sum() / count.clamp(min=1)
    return distances / mean.where(count > 0, 1)


class _Angle(torch.autograd.Function):
    """From squared distances D to the mean of h over all triples, with the gradient on D of the student.

    With d the distances to j and r = 1 / d, c[i, j, k] = (-D_ik r_i r_k + d_i r_k + r_i d_k) / 2: for both
    sides together two matrices with rows and columns scaled, and one of rank four.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        (d, r), (e, q) = _inverted(student), _inverted(teacher)
        left, right = torch.stack([d / 2, r, -e / 2, -q], dim=2), torch.stack([r, d / 2, q, e / 2], dim=1)
        rows, wanted = len(student), ctx.needs_input_grad[0]
        total, opposite = student.new_zeros(()), torch.zeros_like(student)
        arms, stretch = torch.zeros_like(student), torch.zeros_like(student)
        buffers = student.new_empty(3, min(_BLOCK, rows), rows)
        for start in range(0, rows, _BLOCK):
            block = slice(start, min(start + _BLOCK, rows))
            gap, w, tmp = buffers[:, : block.stop - start]
            for j in range(rows):
                own, its = r[j, block, None], q[j, block, None]
                torch.mul(student[block], r[j], out=gap).mul_(own)
                gap.addcmul_(torch.mul(teacher[block], q[j], out=tmp), its, value=-1)
                torch.addmm(gap, left[j, block], right[j], beta=-0.5, out=gap)
                # h(a) = w a - w^2 / 2 with w = h'(a), a cut at -1 and 1.
                flat = torch.clamp(gap, -1, 1, out=w).view(-1)
                total += torch.dot(flat, gap.view(-1)) - torch.dot(flat, flat) / 2
                if wanted:
                    arms[j, block] = torch.mul(w, r[j], out=tmp).sum(dim=1)
                    opposite[block].addcmul_(tmp, own)
                    stretch[j, block] = torch.mv(w, d[j]) - tmp.mul_(student[block]).sum(dim=1)
        if wanted:
            gradient = (r * arms - r**3 * stretch - opposite) / (2 * rows**3)
            ctx.save_for_backward(gradient)
        return total / rows**3

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (saved,) = ctx.saved_tensors
        return gradient * saved, None


def _inverted(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and their reciprocals, 0 where there is no distance."""
    d = squared.clamp(min=0).sqrt()
    return d, d.reciprocal().where(d > 0, 0)
