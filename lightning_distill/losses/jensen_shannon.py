"""Generalised Jensen-Shannon divergence between teacher and student."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """T^2 * (1/B) * sum_i [beta * KL(p_t || m) + (1 - beta) * KL(p_s || m)], in nats.

    p = softmax(z / T) and m = beta * p_t + (1 - beta) * p_s. Bounded, unlike KL: a class that one side rules
    out costs at most a constant. Divided by beta it tends to KL(p_t || p_s) as beta tends to 0, and divided
    by 1 - beta to KL(p_s || p_t) as beta tends to 1.

    Args:
        student_logits: z_s, "batch classes".
        teacher_logits: z_t, "batch classes"; no gradient flows into it.
        beta: The teacher's share of m, above 0 and below 1.
        temperature: T > 0.

    Returns:
        0-d tensor from 0 to T^2 * log 2.

    Source: Agarwal et al., On-Policy Distillation of Language Models (2306.13649), section 2. Some libraries
    put KL itself in place of the formula's limits, which are 0; here beta = 0 and beta = 1 are refused. T^2
    is Hinton's; the paper has T = 1.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
    >>> jensen_shannon(logits, logits + 5.0).abs().item() < 1e-6
    True
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    student = F.log_softmax(student_logits.to(wide) / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().to(wide) / temperature, dim=-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    from_teacher = F.kl_div(mixture, teacher, reduction="batchmean", log_target=True)
    from_student = F.kl_div(mixture, student, reduction="batchmean", log_target=True)
    value = beta * from_teacher + (1 - beta) * from_student
    return (value * temperature**2).to(student_logits.dtype)


class JensenShannon(DistillationLoss):
    """`jensen_shannon` on the logits of student and teacher.

    It is a fraction of KL in size: at beta = 0.5 and for small differences a quarter. Weight it so.

    Args:
        beta: Above 0 and below 1. Small values favour covering all the teacher says, large ones favour what
            the student is sure of.
        temperature: T > 0.

    Raises:
        ConfigError: If beta is not between 0 and 1, or the temperature is not positive.

    Source: as `jensen_shannon`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < beta < 1:
            raise ConfigError(
                where="JensenShannon.beta",
                found=beta,
                expected="a number above 0 and below 1, where the divergence is not 0 for all",
                fix="try 0.5; for KL(teacher || student), the limit of 0, use LogitKD",
            )
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="JensenShannon.temperature",
                found=temperature,
                expected="a positive number",
                fix="try 1.0",
            )
        self.beta, self.temperature = beta, temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        return jensen_shannon(student.logits, teacher.logits, self.beta, self.temperature)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"beta={self.beta}, temperature={self.temperature}"
