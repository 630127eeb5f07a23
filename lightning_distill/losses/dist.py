"""DIST: relations between classes and between samples, by Pearson's correlation."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss, gather_rows
from lightning_distill.structures import Batch, ModelOutput, Outputs

_SMALLEST_NORM: Final = 1e-5


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """T^2 * [beta * (1 - mean_i r(p_s[i, :], p_t[i, :])) + gamma * (1 - mean_c r(p_s[:, c], p_t[:, c]))].

    p = softmax(z / T); r is Pearson's correlation, over the classes of a sample and over the samples of a
    class. Norms of centred probabilities below 1e-5 count as 1e-5: where one side says the same of all, r is
    0 and the gradient finite, though large. A batch of one has no relation between samples: gamma counts 0.
    With two classes, or two samples, r is 1 or -1 and has next to no gradient.

    Args:
        student_logits: z_s, "batch classes".
        teacher_logits: z_t, "batch classes"; no gradient flows into it.
        beta: Weight of the relation between classes.
        gamma: Weight of the relation between samples.
        temperature: T > 0. Correlations do not shrink as T grows, so T^2 makes hot gradients larger here.

    Returns:
        0-d tensor from 0 to 2 * T^2 * (beta + gamma).

    Source: Huang et al., Knowledge Distillation from A Stronger Teacher (2205.10536), section 3. The authors'
    code adds 1e-8 to the product of the norms, which shifts every value a little; here ordinary values are
    those of the formula.

    >>> logits = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])
    >>> dist(logits, logits + 5.0).abs().item() < 1e-6
    True
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    student = F.softmax(student_logits.to(wide) / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach().to(wide) / temperature, dim=1)
    value = beta * (1 - _correlation(student, teacher, dim=1).mean())
    if len(student) > 1:
        value = value + gamma * (1 - _correlation(student, teacher, dim=0).mean())
    return (value * temperature**2).to(student_logits.dtype)


class DIST(DistillationLoss):
    """`dist` on the logits of student and teacher.

    The paper's weights are 1 for the task loss, and 2 for each of the two relations: weight 2 for this term.

    Args:
        beta: Weight of the relation between classes, 0 or more.
        gamma: Weight of the relation between samples, 0 or more.
        temperature: T > 0; 1 is the usual.
        gather: Whether each process compares the samples of all processes. Small batches need it.

    Raises:
        ConfigError: If a weight is negative, both are 0, or the temperature is not positive.

    Source: as `dist`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, gather: bool = False
    ) -> None:
        super().__init__()
        if not (min(beta, gamma) >= 0 < beta + gamma < math.inf):
            raise ConfigError(
                where="DIST.beta, gamma",
                found=(beta, gamma),
                expected="two finite numbers of 0 or more, not both 0",
                fix="try 1.0 and 1.0",
            )
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="DIST.temperature", found=temperature, expected="a positive number", fix="try 1.0"
            )
        self.beta, self.gamma, self.temperature, self.gather = beta, gamma, temperature, gather

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        s, t = student.logits, teacher.logits.detach()
        if self.gather:
            s, t = gather_rows(s), gather_rows(t)
        return dist(s, t, self.beta, self.gamma, self.temperature)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"beta={self.beta}, gamma={self.gamma}, temperature={self.temperature}, gather={self.gather}"


def _correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    x, y = x - x.mean(dim, keepdim=True), y - y.mean(dim, keepdim=True)
    norms = [torch.linalg.vector_norm(z, dim=dim).clamp(min=_SMALLEST_NORM) for z in (x, y)]
    return (x * y).sum(dim) / (norms[0] * norms[1])
