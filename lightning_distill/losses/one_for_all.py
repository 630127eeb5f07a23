"""One for all: distillation that trusts the teacher on the target class more than on the rest."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs


def one_for_all(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, power: float = 1.5) -> Tensor:
    """-(1/B) * sum_i sum_c [(p_t[c] + 1_y[c])^e - 1_y[c]] * log p_s[c], in nats.

    p = softmax(z); 1_y is 1 at the target and 0 elsewhere, and 0 throughout for a row without a label. For
    e > 1 the target gains weight and the classes the teacher finds unlikely lose it. With e = 1 it is the
    cross-entropy between teacher and student. It is no divergence: not 0 when the student is the teacher.

    Args:
        student_logits: z_s, "batch classes".
        teacher_logits: z_t, "batch classes"; no gradient flows into it.
        target: y, int64 "batch", `UNLABELLED` where there is no label.
        power: e > 0.

    Returns:
        0-d tensor >= 0.

    Source: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation (2310.19444), the loss of the authors' code at its temperature of 1. There the same term is
    also put on branches that grow from inner stages of the student; here on its logits only.

    >>> logits = torch.zeros(1, 2)
    >>> round(one_for_all(logits, logits, torch.tensor([0]), power=1.0).item(), 4)
    0.6931
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    teacher = F.softmax(teacher_logits.detach().to(wide), dim=1)
    column, labelled = target.clamp(min=0)[:, None], (target != UNLABELLED)[:, None]
    own = teacher.gather(1, column)
    weights = teacher.pow(power)
    weights.scatter_(1, column, torch.where(labelled, (own + 1).pow(power) - 1, own.pow(power)))
    return F.cross_entropy(student_logits.to(wide), weights).to(student_logits.dtype)


class OneForAll(DistillationLoss):
    """`one_for_all` on the logits of student and teacher.

    It holds a soft cross-entropy: weight 1 beside a task loss of weight 1 is a sound start.

    Args:
        power: e > 0. The authors' default is 1.5.

    Raises:
        ConfigError: If the power is not a positive number.

    Source: as `one_for_all`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, power: float = 1.5) -> None:
        super().__init__()
        if not (math.isfinite(power) and power > 0):
            raise ConfigError(
                where="OneForAll.power", found=power, expected="a positive number", fix="try 1.5"
            )
        self.power = power

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        return one_for_all(student.logits, teacher.logits, batch["target"], self.power)

    def extra_repr(self) -> str:
        """Show the power."""
        return f"power={self.power}"
