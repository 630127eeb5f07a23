"""Distillation of plain numbers: the student says what the teacher says."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs


def regression_kd(student_outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Mean over all entries of (y_s - y_t)^2, in the square of the outputs' unit.

    Args:
        student_outputs: y_s, "batch outputs".
        teacher_outputs: y_t, "batch outputs"; no gradient flows into it.

    Returns:
        0-d tensor >= 0.

    Source: Ba and Caruana, Do Deep Nets Really Need to be Deep? (1312.6184), section 2, which sums over
    outputs and halves; the mean goes with the mean of the regression task's own loss.

    >>> regression_kd(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()
    2.0
    """
    wide = torch.promote_types(student_outputs.dtype, torch.float32)
    value = F.mse_loss(student_outputs.to(wide), teacher_outputs.detach().to(wide))
    return value.to(student_outputs.dtype)


class RegressionKD(DistillationLoss):
    """`regression_kd` on the outputs of student and teacher.

    Beside a classification it matches the logits themselves, as the paper does. With a regression, weights
    that add up to 1 make the task loss and this term a mixture of the truth and the teacher.

    Source: as `regression_kd`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES, Outputs.NUMBERS})

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        return regression_kd(student.logits, teacher.logits)
