"""Decoupled knowledge distillation: target against the rest, and the rest among itself."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 * (1/B) * sum_i [alpha * KL(b_t || b_s) + beta * KL(q_t || q_s)], in nats.

    b = (p_y, 1 - p_y) with p = softmax(z / T) and y the target; q is the softmax of z / T over all classes
    but y. A row without a label has no target to set apart: it adds KL(p_t || p_s), plain distillation.
    alpha = 1 and 1 - p_y of the teacher in place of beta make it plain distillation for every row. With two
    classes q is 1 and its divergence 0.

    Args:
        student_logits: z_s, "batch classes", at least two classes.
        teacher_logits: z_t, "batch classes"; no gradient flows into it.
        target: y, int64 "batch", `UNLABELLED` where there is no label.
        alpha: Weight of the target class against the rest.
        beta: Weight of the rest among itself.
        temperature: T > 0.

    Returns:
        0-d tensor >= 0; 0 when both distributions are equal.

    Source: Zhao et al., Decoupled Knowledge Distillation (2203.08679), section 3. The authors' code takes
    the logarithm of a softmax, infinite where the student is sure; here all is computed from logits and their
    log-sum-exp. It has no rows without a label.

    >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2])
    >>> decoupled_kd(logits, logits + 5.0, target).abs().item() < 1e-5
    True
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    student, teacher = student_logits.to(wide), teacher_logits.detach().to(wide)
    value: Tensor = _DecoupledKD.apply(student, teacher, target, alpha, beta, temperature)
    return value.to(student_logits.dtype)


class DecoupledKD(DistillationLoss):
    """`decoupled_kd` on the logits of student and teacher.

    The paper adds it with weight 1 to a task loss of weight 1, after a linear warm-up over 20 epochs.

    Args:
        alpha: 0 or more. The paper has 1 throughout.
        beta: 0 or more. The paper's depends on the pair of models: 8 for most on CIFAR-100, 2 to 6 for
            others, 0.5 on ImageNet.
        temperature: T > 0. The paper has 4 on CIFAR-100 and 1 on ImageNet.

    Raises:
        ConfigError: If a weight is negative, both are 0, or the temperature is not positive.

    Source: as `decoupled_kd`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        if not (min(alpha, beta) >= 0 < alpha + beta < math.inf):
            raise ConfigError(
                where="DecoupledKD.alpha, beta",
                found=(alpha, beta),
                expected="two finite numbers of 0 or more, not both 0",
                fix="try 1.0 and 8.0",
            )
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="DecoupledKD.temperature",
                found=temperature,
                expected="a positive number",
                fix="try 4.0",
            )
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        target = batch["target"]
        return decoupled_kd(student.logits, teacher.logits, target, self.alpha, self.beta, self.temperature)

    def extra_repr(self) -> str:
        """Show the weights and the temperature."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}"


class _DecoupledKD(torch.autograd.Function):
    """Value and gradient in one pass over the logits: autograd's own way costs twice the time."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        target: Tensor,
        alpha: float,
        beta: float,
        temperature: float,
    ) -> Tensor:
        labelled, column = target != UNLABELLED, target.clamp(min=0)[:, None]
        zeros, scale = student.new_zeros(len(target)), temperature / max(len(target), 1)
        a, b = zeros.where(~labelled, alpha), (zeros + 1).where(~labelled, beta)
        gap_s, rest_s, q_s, lse_s = _split(student, column, labelled, temperature)
        gap_t, rest_t, q_t, lse_t = _split(teacher, column, labelled, temperature)
        p_s, p_t = gap_s.sigmoid(), gap_t.sigmoid()

        # Both hold the same number at the target, so that it adds nothing.
        among_rest = rest_t.sub_(rest_s).mul_(q_t).sum(dim=1) + lse_s - lse_t
        against_rest = p_t * (F.logsigmoid(gap_t) - F.logsigmoid(gap_s))
        against_rest += (-gap_t).sigmoid() * (F.logsigmoid(-gap_t) - F.logsigmoid(-gap_s))

        slope = a * (p_s - p_t)
        gradient = q_s.mul_((b - slope)[:, None]).addcmul_(q_t, b[:, None], value=-1)
        gradient.scatter_add_(1, column, slope[:, None]).mul_(scale)
        ctx.save_for_backward(gradient)
        return (a * against_rest + b * among_rest).sum() * (scale * temperature)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (saved,) = ctx.saved_tensors
        return gradient * saved, None, None, None, None, None


def _split(logits: Tensor, column: Tensor, labelled: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """Log-odds of the target, logits without it, their softmax and their log-sum-exp."""
    rest = logits / temperature
    own = rest.gather(1, column)
    # Not minus infinity: the difference of two would be NaN. The exponential of both is 0.
    lowest = own.masked_fill(labelled[:, None], torch.finfo(rest.dtype).min)
    rest.scatter_(1, column, lowest)
    softmax = F.softmax(rest, dim=1)
    lse = rest.amax(dim=1) - softmax.amax(dim=1).log()
    return own[:, 0] - lse, rest, softmax, lse
