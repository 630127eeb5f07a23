"""Relational distillation: distances between samples, and angles between three of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
_BLOCK: Final = 65536
"""Cosines at a time, so that what is worked on stays in the cache."""
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

    The cosines follow from the B^2 distances, one i at a time, so that memory grows with B^2; gradients are
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
        angle: Weight of the angles, 0 or more. At B = 512 they take a quarter of a second on one CPU core.
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

    c[i, j, k] = (D_ij + D_kj - D_ik) / (2 d_ij d_kj). It is the same for (i, k) and (k, i), so k > i is
    enough. With w = h', the gradient of sum h on D_kj is
    R_kj * sum_i w R_ij - R_kj^2 * sum_i w c - 1/2 sum_m w[k, m, j] R_km R_jm, where R = 1 / d.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = _Side.of(student), _Side.of(teacher)
        rows, wanted = len(student), ctx.needs_input_grad[0]
        # Where k = i, the cosine is 1, or 0 without a direction.
        total = (((s.r > 0) != (t.r > 0)).sum() * 0.5).to(student.dtype)
        sums = torch.zeros(3, rows, rows, dtype=student.dtype, device=student.device)
        scratch = student.new_empty(4, max(_BLOCK, rows))
        for i in range(rows - 1):
            step = max(1, _BLOCK // (rows - 1 - i))
            for start in range(0, rows, step):
                block = slice(start, min(start + step, rows))
                shape = (block.stop - start, rows - 1 - i)
                c, gap, w, tmp = (b[: shape[0] * shape[1]].view(shape) for b in scratch)
                s.cosines(i, block, c).mul_(s.half(i, block))
                torch.addcmul(c, t.cosines(i, block, tmp), t.half(i, block), value=-1, out=gap)
                torch.clamp(gap, -1, 1, out=w)
                total += w.view(-1).dot(gap.add_(gap).sub_(w).view(-1))
                if wanted:
                    _accumulate(w, c, tmp, s.r, i, block, sums)
        if wanted:
            arms, cosines, opposite = sums
            gradient = s.r * arms - s.r.square() * cosines - (opposite + opposite.T) / 2
            ctx.save_for_backward(gradient / rows**3)
        return total / rows**3

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (saved,) = ctx.saved_tensors
        return gradient * saved, None


@dataclass(frozen=True)
class _Side:
    """Squared distances, distances and their reciprocals, all "batch batch"."""

    squared: Tensor
    d: Tensor
    r: Tensor

    @classmethod
    def of(cls, squared: Tensor) -> _Side:
        d = squared.clamp(min=0).sqrt()
        return cls(squared, d, d.reciprocal().where(d > 0, 0))

    def half(self, i: int, block: slice) -> Tensor:
        return self.r[i, block, None] / 2

    def cosines(self, i: int, block: slice, out: Tensor) -> Tensor:
        """2 c[i, j, k] d_ij "j k", for j of the block and k > i."""
        after = slice(i + 1, None)
        torch.sub(self.squared[i, block, None], self.squared[i, after], out=out)
        return torch.addcmul(self.d[block, after], self.r[block, after], out, out=out)


def _accumulate(w: Tensor, c: Tensor, tmp: Tensor, r: Tensor, i: int, block: slice, sums: Tensor) -> None:
    """Add what i and all k > i contribute to the three sums of the gradient, "j k"; `c` is used up."""
    arms, cosines, opposite = sums
    after, own = slice(i + 1, None), r[i, block]
    arms[block, after].addcmul_(w, own[:, None])
    cosines[block, after].add_(c.mul_(w))
    cosines[block, i].add_(c.sum(dim=1))
    torch.mul(w, r[block, after], out=tmp)
    arms[block, i].add_(tmp.sum(dim=1))
    opposite[i, after].addmv_(tmp.T, own)
