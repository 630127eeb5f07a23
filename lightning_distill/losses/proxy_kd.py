"""Selective distillation across modalities: only where both rank the classes alike, and not the target."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import DistillationLoss
from lightning_distill.structures import UNLABELLED, Batch, ModelOutput, Outputs


def kendall_tau(x: Tensor, y: Tensor) -> Tensor:
    """Kendall's tau-b between each row of x and that of y, in time C log(C)^2 a row.

    (P - Q) / sqrt((N - N_x) * (N - N_y)): P pairs of columns that both rank alike, Q that they rank against
    each other, N pairs in all, N_x and N_y those that x or y ties.

    Args:
        x: "batch classes".
        y: "batch classes".

    Returns:
        "batch", from -1 to 1; NaN where x or y is constant, as nothing is ranked there. Without gradient.

    Source: Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945).

    >>> kendall_tau(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([0.3333])
    """
    x, y = x.detach(), y.detach()
    sorted_y, by_y = y.sort(dim=1, stable=True)
    order = by_y.gather(1, x.gather(1, by_y).argsort(dim=1, stable=True))
    x, y = x.gather(1, order), y.gather(1, order)
    by_y = y.argsort(dim=1, stable=True)
    place = torch.arange(x.shape[1], device=x.device).expand_as(by_y)
    ranks = torch.empty_like(by_y).scatter_(1, by_y, place)
    new_x, new_y = x[:, 1:] != x[:, :-1], y[:, 1:] != y[:, :-1]
    pairs = x.shape[1] * (x.shape[1] - 1) // 2
    untied_x = pairs - _tied_pairs(new_x)
    untied_y = pairs - _tied_pairs(sorted_y[:, 1:] != sorted_y[:, :-1])
    tied_both = _tied_pairs(new_x | new_y)
    alike_less_against = untied_x + untied_y + tied_both - pairs - 2 * _inversions(ranks)
    wide = torch.promote_types(x.dtype, torch.float32)
    return alike_less_against.to(wide) / untied_x.to(wide).sqrt() / untied_y.to(wide).sqrt()


def proxy_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    threshold: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """T^2 * (1/B) * sum over i with tau(s_i, t_i) > threshold of KL(q_t || q_s), in nats.

    tau is Kendall's over the logits; q is the softmax of z / T over all classes but the target. A row without
    a label has no target to leave out: q is over all classes. A row in which one side says the same of all
    classes has no tau and is not selected.

    Args:
        student_logits: z_s, "batch classes", at least two classes.
        teacher_logits: z_t, "batch classes"; no gradient flows into it. Exchange both for the term that
            teaches the teacher: the selection is the same.
        target: int64 "batch", `UNLABELLED` where there is no label.
        threshold: From -1 to 1; -1 leaves out only rows in reverse order.
        temperature: T > 0.

    Returns:
        0-d tensor >= 0; 0, with a gradient of 0, where no row is selected.

    Source: Huo et al., C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation (CVPR 2024),
    on-the-fly selection distillation. The authors' code multiplies the target's logit by 0, so that a logit
    of 0 takes part in its place; here it is left out. T^2 is Hinton's; the authors have T = 1.

    >>> logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2])
    >>> proxy_kd(logits, -logits, target).item(), proxy_kd(logits, 2 * logits, target).item() > 0
    (0.0, True)
    """
    wide = torch.promote_types(student_logits.dtype, torch.float32)
    selected = kendall_tau(student_logits, teacher_logits) > threshold
    student = _rest(student_logits.to(wide) / temperature, target)
    teacher = _rest(teacher_logits.detach().to(wide) / temperature, target)
    rows = (teacher.exp() * (teacher - student)).sum(dim=1)
    return (torch.where(selected, rows, 0.0).mean() * temperature**2).to(student_logits.dtype)


class ProxyKD(DistillationLoss):
    """`proxy_kd` between two proxies, or between student and teacher themselves.

    In the paper each side has a proxy, a second classifier on its features, and this term ties the proxies to
    each other; every tie has weight 1 and so has the task loss. The teacher trains along: that part is
    mutual learning, with this term in both directions. Name the proxies' outputs to tie those.

    Args:
        threshold: From -1 to below 1. The authors have 0.
        temperature: T > 0. The authors have 1.
        student: Where the student's logits are, a name for `ModelOutput.at`.
        teacher: Where the teacher's are.

    Raises:
        ConfigError: If the threshold is not in its range, or the temperature is not positive.

    Source: as `proxy_kd`.
    """

    suits: ClassVar[frozenset[Outputs]] = frozenset({Outputs.CLASSES})

    def __init__(
        self,
        threshold: float = 0.0,
        temperature: float = 1.0,
        student: str = "logits",
        teacher: str = "logits",
    ) -> None:
        super().__init__()
        if not -1 <= threshold < 1:
            raise ConfigError(
                where="ProxyKD.threshold",
                found=threshold,
                expected="a correlation from -1 to below 1",
                fix="try 0.0",
            )
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="ProxyKD.temperature", found=temperature, expected="a positive number", fix="try 1.0"
            )
        self.threshold, self.temperature = threshold, temperature
        self.student_layers, self.teacher_layers = (student,), (teacher,)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        s, t = student.at(self.student_layers[0]), teacher.at(self.teacher_layers[0])
        return proxy_kd(s, t, batch["target"], self.threshold, self.temperature)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"threshold={self.threshold}, temperature={self.temperature}"


def _rest(logits: Tensor, target: Tensor) -> Tensor:
    """Log-softmax over all classes but the target."""
    column, labelled = target.clamp(min=0)[:, None], (target != UNLABELLED)[:, None]
    # Not minus infinity: the difference of two would be NaN. The exponential of both is 0.
    lowest = logits.gather(1, column).masked_fill(labelled, torch.finfo(logits.dtype).min)
    return F.log_softmax(logits.scatter(1, column, lowest), dim=1)


def _tied_pairs(new: Tensor) -> Tensor:
    """Pairs within runs of equal values, "batch"; `new` says where in a sorted row a run begins."""
    place = torch.arange(1, new.shape[1] + 1, device=new.device)
    begin = torch.where(new, place, 0).cummax(dim=1).values
    return (place - begin).sum(dim=1)


def _inversions(ranks: Tensor) -> Tensor:
    """Pairs in which a larger rank stands before a smaller one, "batch".

    Two ranks differ first in some bit. Bit by bit from the highest, ranks that agree in all bits above stand
    in one block, in their old order; there each 0 counts the 1s before it, and then moves before them.
    """
    bits = max((ranks.shape[1] - 1).bit_length(), 1)
    padding = torch.arange(ranks.shape[1], 1 << bits, device=ranks.device).expand(len(ranks), -1)
    ranks, count = torch.cat([ranks, padding], dim=1), ranks.new_zeros(len(ranks))
    for bit in reversed(range(bits)):
        blocks = ranks.view(len(ranks), -1, 2 << bit)
        one = (blocks & (1 << bit)) != 0
        ones = one.cumsum(dim=2)
        count = count + ones.masked_fill(one, 0).sum(dim=(1, 2))
        place = torch.arange(2 << bit, device=ranks.device)
        to = torch.where(one, ones + ((1 << bit) - 1), place - ones)
        ranks = torch.empty_like(blocks).scatter_(2, to, blocks).view(len(ranks), -1)
    return count
