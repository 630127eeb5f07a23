"""How often the student says what its teacher says, in the target domain."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.validators.base import Answers, TargetValidator


def teacher_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_i [argmax_c z^s_ic = argmax_c z^t_ic], the share of rows with the same most likely class.

    Args:
        student: z^s, logits "rows classes" of the target.
        teacher: z^t, of the same shape.

    Returns:
        0-d float32 tensor in [0, 1]; 0 where there is no row.

    Source: Stanton et al., Does Knowledge Distillation Really Work? (2106.05945), "average top-1 agreement".

    >>> teacher_agreement(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[0.3, 0.1], [0.2, 0.0]]))
    tensor(0.5000)
    """
    if not len(student):
        return torch.zeros((), device=student.device)
    return (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean()


class TeacherAgreement(TargetValidator):
    """`teacher_agreement` on the target rows.

    It is worth as much as the teacher is right there: it follows the target accuracy where the teacher knows
    the target, or sees modalities that the student lacks. It fails where the teacher is wrong in the same way
    as the student, as a teacher that is the student's own average, or was trained on the same source, often
    is.

    Source: as `teacher_agreement`.
    """

    name: ClassVar[str] = "teacher_agreement"
    needs_teacher: ClassVar[bool] = True

    def score(self, source: Answers, target: Answers) -> Tensor:
        """In [0, 1]."""
        return teacher_agreement(target.logits, target.teacher)
