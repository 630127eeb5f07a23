"""Consistency: the student answers its view of a sample as the teacher answers another view of it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs


def consistency(student_logits: Tensor, teacher_logits: Tensor, threshold: float = 0.0) -> Tensor:
    """(1/B) * sum_i [max_c q_ic >= threshold] * sum_c (p_ic - q_ic)^2.

    p_i and q_i are the softmax of the student's and of the teacher's logits of sample i. Rows the teacher is
    less sure of count as 0 and stay in B, so that the term grows as the teacher gets surer. Labels play no
    part.

    Args:
        student_logits: "batch classes".
        teacher_logits: "batch classes"; no gradient flows into it.
        threshold: Least probability of the teacher's most likely class; 0 takes every row.

    Returns:
        0-d tensor between 0 and 2; 0 when both distributions are equal, and for no rows.

    Source: Tarvainen and Valpola, Mean teachers are better role models (1703.01780), section 2, J(theta) with
    its squared norm; the authors' code divides it by the number of classes, so that its weight for 10 classes
    is 10 times one for this term. The threshold is that of French et al., Self-ensembling for visual domain
    adaptation (1706.05208), section 3.2, whose code divides by the number of classes too.

    >>> logits = torch.tensor([[0.0, 20.0], [0.0, 0.0]])
    >>> round(consistency(logits.flip(1), logits).item(), 4)
    1.0
    >>> consistency(logits, logits + 3.0).item()
    0.0
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    student = student_logits.to(wide).softmax(dim=1)
    teacher = teacher_logits.detach().to(wide).softmax(dim=1)
    sure = teacher.amax(dim=1) >= threshold
    distance = (student - teacher).square().sum(dim=1) * sure
    return (distance.sum() / max(len(distance), 1)).to(student_logits.dtype)


class Consistency(DistillationLoss):
    """`consistency` on the logits of student and teacher.

    With an `EmaTeacher`, a random view for the student and another one for the teacher (`OwnView`) it is the
    mean teacher. It reads all rows, labelled or not; `OnTarget` takes those of the target domains alone. Its
    weight is mostly ramped up, or the threshold set high, since the mean of a student that has learned
    nothing yet is no teacher.

    Args:
        threshold: Least probability of the teacher's most likely class, between 0 and 1. 0 takes every row;
            0.968 is that of the domain adaptation paper.

    Raises:
        ConfigError: If the threshold is out of range.

    Source: as `consistency`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ConfigError(
                where="Consistency.threshold",
                found=threshold,
                expected="a probability, 0 to 1",
                fix="try 0, which takes every row, or 0.968",
            )
        self.threshold = threshold

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        return consistency(student.logits, teacher.logits, self.threshold)

    def extra_repr(self) -> str:
        """Show the threshold."""
        return f"threshold={self.threshold}"
