"""Hints: a layer of the student follows a layer of the teacher."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import AdaptedLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tokens import TokenGrid, as_map, map_shape, pooled_alike


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((s - t)^2) over all elements.

    Args:
        student: Any shape, already brought to the teacher's width.
        teacher: The same shape; no gradient flows into it.

    Returns:
        0-d tensor >= 0.

    Raises:
        ConfigError: If the shapes differ, as where two tokenizers cut one text into different tokens.

    Source: Romero et al., FitNets (1412.6550), equation 3, whose factor 1/2 and sum over elements are
    replaced by the mean, as in most published code.

    >>> import torch
    >>> hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()
    2.0
    """
    if student.shape != teacher.shape:
        raise ConfigError(
            where="hint",
            found=f"shapes {tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher",
            expected="the same shape",
            fix="name layers with one vector a sample, or pad every batch to one length",
        )
    return F.mse_loss(student, teacher.detach()) if student.numel() else student.sum()


class Hint(AdaptedLoss):
    """`hint` between a layer of the teacher and a trained linear map of a layer of the student.

    The regressor is linear over the last dimension for vectors and tokens, and a 1x1 convolution for maps.
    Maps of different height and width are compared at the smaller. The usual weight is 100; the paper trains
    with hints first and distils the logits afterwards, which two runs or a weight schedule do.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        student_grid: Where the student's tokens lie, to compare them as a map.
        teacher_grid: Where the teacher's do.

    Raises:
        ConfigError: In the dry run, if one layer is a map or tokens and the other is not.

    Source: as `hint`; the regressor is the paper's without a bias on the layer's size.
    """

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        student_grid: TokenGrid | None = None,
        teacher_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__([student], [teacher])
        self.student_grid, self.teacher_grid = student_grid, teacher_grid

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """A linear map from the student's width to the teacher's."""
        (s,), (t,) = student, teacher
        s = s if self.student_grid is None else map_shape(s, self.student_grid)
        t = t if self.teacher_grid is None else map_shape(t, self.teacher_grid)
        if len(s) != len(t) or (len(s) == 2 and s[0] != t[0]) or len(s) > 3:
            raise ConfigError(
                where="Hint",
                found=f"a student's layer {self.student_layers[0]!r} of shape {s} and a teacher's layer "
                f"{self.teacher_layers[0]!r} of shape {t}",
                expected="two vectors, as many tokens on both sides, or two maps",
                fix="name other layers, or say with student_grid and teacher_grid where the tokens lie",
            )
        self.regressor: nn.Module = nn.Linear(s[-1], t[-1]) if len(s) < 3 else nn.Conv2d(s[0], t[0], 1)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        ((s, t),) = self.pairs(student, teacher, batch)
        s = s if self.student_grid is None else as_map(s, self.student_grid)
        t = t if self.teacher_grid is None else as_map(t, self.teacher_grid)
        if s.ndim == 4:
            s, t = pooled_alike(s, t)
        return hint(self.regressor(s), t)
