"""Hinton's knowledge distillation on logits."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs


def logit_kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 * (1/B) * sum_i KL(softmax(t_i / T) || softmax(s_i / T)), in nats.

    T^2 keeps the size of the gradient when T changes. Labels play no part, so every sample counts,
    labelled or not.

    Args:
        student_logits: "batch classes".
        teacher_logits: "batch classes"; no gradient flows into it.
        temperature: T > 0.

    Returns:
        0-d tensor >= 0; 0 when both distributions are equal.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network (1503.02531), section 2.

    >>> import torch
    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> logit_kd(logits, logits + 5.0).abs().item() < 1e-6
    True
    """
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


class LogitKD(DistillationLoss):
    """`logit_kd` on the logits of student and teacher.

    The whole objective of the paper, alpha * T^2 KL + (1 - alpha) * CE, is this term with weight alpha
    beside the task loss with weight 1 - alpha.

    Args:
        temperature: T > 0. The paper's experiments use 1 to 20; 4 is common.

    Raises:
        ConfigError: If the temperature is not a positive number.

    Source: as `logit_kd`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="LogitKD.temperature", found=temperature, expected="a positive number", fix="try 4.0"
            )
        self.temperature = temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        return logit_kd(student.logits, teacher.logits, self.temperature)

    def extra_repr(self) -> str:
        """Show the temperature."""
        return f"temperature={self.temperature}"
