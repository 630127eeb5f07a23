"""Distillation where each class is a question of its own."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import Batch, ModelOutput, Outputs


def multilabel_kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * (1/B) * sum_i sum_c KL(b_t || b_s), in nats; b = (g, 1 - g), g = sigmoid(z / T).

    The sum over classes and the mean over samples are the paper's. Labels play no part, known or not.

    Args:
        student_logits: z_s, "batch classes".
        teacher_logits: z_t, "batch classes"; no gradient flows into it.
        temperature: T > 0.

    Returns:
        0-d tensor >= 0; 0 when all probabilities are equal.

    Source: Yang et al., Multi-Label Knowledge Distillation (2308.06453), the divergence between logits. The
    authors' code clamps probabilities to 1e-8, which ends the gradient there; here all is computed from
    logits. T^2 is Hinton's; the paper has T = 1.

    >>> multilabel_kd(torch.ones(1, 3), torch.ones(1, 3)).item()
    0.0
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    s, t = student_logits.to(wide) / temperature, teacher_logits.detach().to(wide) / temperature
    share = t.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(t, share, reduction="none")
    values = F.binary_cross_entropy_with_logits(s, share, reduction="none") - entropy
    return (values.sum(dim=1).mean() * temperature**2).to(student_logits.dtype)


class MultilabelKD(DistillationLoss):
    """`multilabel_kd` on the logits of student and teacher.

    The task's own loss is a mean over classes, this term a sum: divide its weight by the number of classes to
    put both on one footing. The authors' code has weight 10 beside a task loss summed over classes and
    samples.

    Args:
        temperature: T > 0.

    Raises:
        ConfigError: If the temperature is not a positive number.

    Source: as `multilabel_kd`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.LABELS})

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="MultilabelKD.temperature",
                found=temperature,
                expected="a positive number",
                fix="try 1.0",
            )
        self.temperature = temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        return multilabel_kd(student.logits, teacher.logits, self.temperature)

    def extra_repr(self) -> str:
        """Show the temperature."""
        return f"temperature={self.temperature}"
