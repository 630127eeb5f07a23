"""Standardised logits: what is said of classes relative to each other, whatever the scale."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs

_SMALLEST_DEVIATION: Final = 1e-6


def standardize(logits: Tensor) -> Tensor:
    """(z - mean(z)) / std(z) for each row; std with C - 1 in the denominator.

    Deviations below 1e-6 count as 1e-6, so that equal logits become 0 and their gradient stays finite.

    Args:
        logits: z, "batch classes".

    Returns:
        "batch classes", with mean 0 and deviation 1.

    Source: Sun et al., Logit Standardization in Knowledge Distillation (2403.01427). The authors' code
    divides by std + 1e-7 instead.

    >>> standardize(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).tolist()
    [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centred = z - z.mean(dim=1, keepdim=True)
    # The gradient of a norm is defined at 0, that of a standard deviation is NaN.
    deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(max(z.shape[1] - 1, 1))
    return (centred / deviation.clamp(min=_SMALLEST_DEVIATION)).to(logits.dtype)


class StandardizedLogits(DistillationLoss):
    """Another term, on standardised logits of student and teacher.

    The student need not reach the teacher's scale of logits any more, and so does not learn how sure the
    teacher is: expect worse calibration. The paper's setting for `LogitKD` is T = 2, which brings T^2 with
    it, weight 9, and 0.1 for the task loss; for `DecoupledKD`, alpha and beta are times 9.

    Args:
        loss: A term that reads logits of exclusive classes and nothing else.

    Raises:
        ConfigError: If the term reads layers, or no classes.

    Source: as `standardize`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, loss: DistillationLoss) -> None:
        super().__init__()
        layers = (*loss.student_layers, *loss.teacher_layers)
        if layers or loss.suits != self.suits:
            reads = f", which reads {', '.join(layers)}" if layers else ", which takes no softmax"
            raise ConfigError(
                where="StandardizedLogits.loss",
                found=f"{type(loss).__name__}{reads}",
                expected="a term on the logits of exclusive classes, such as LogitKD",
                fix="use that term by itself, or wrap another one",
            )
        self.loss = loss

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, as the inner term has it."""
        teacher_logits = standardize(teacher.logits.detach())
        return self.loss(
            replace(student, logits=standardize(student.logits)),
            replace(teacher, logits=teacher_logits),
            batch,
        )
