"""The norm of all gradients together, bounded."""

from __future__ import annotations

from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, range_at
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.schedules.base import Schedule


class NormClip(ClipRule):
    """g <- c * g with c = min(1, M / n) and n = |all gradients together|_p: the direction stays.

    Where n is not finite the gradients are left as they are, so that what follows can see it: a guard, or the
    loss scaler. Large finite gradients, whose squares overflow, are clipped like others. On the CPU nothing
    is written where c = 1.

    Args:
        max_norm: The bound M, in units of the gradient; positive. May follow a schedule.
        p: Which norm, 1 or more; infinity is the largest entry.

    Raises:
        ConfigError: If max_norm is not a positive number, from the start or at some step of its schedule, or
            p is less than 1.

    Source: Pascanu et al., On the difficulty of training recurrent neural networks (1211.5063), algorithm 1.
    `torch.nn.utils.clip_grad_norm_` divides by n + 1e-6, which clips a little more; turns infinite
    gradients, and finite ones whose norm overflows, into zeros and NaN; and takes a negative M.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
    >>> report = NormClip(1.0).clip([w])
    >>> [round(x, 6) for x in w.grad.tolist()], report.values["norm"].item()
    ([0.6, 0.8], 5.0)
    """

    def __init__(self, max_norm: float | Schedule = 1.0, p: float = 2.0) -> None:
        super().__init__()
        if not isinstance(max_norm, Schedule):
            check_positive(max_norm, "NormClip.max_norm", 1.0)
        if not p >= 1:
            raise ConfigError(where="NormClip.p", found=p, expected="1 or more", fix="try 2.0")
        self.max_norm, self.p = max_norm, p

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale all alike; reports the `norm` before and the `coefficient` c."""
        bound = range_at(self.max_norm, gradients, "NormClip.max_norm", 1.0)
        norm = gradients.norm(self.p)
        coefficient = (bound / norm).clamp(max=1.0).masked_fill(~norm.isfinite(), 1.0)
        gradients.scale(coefficient)
        return ClipReport({"norm": norm, "coefficient": coefficient})

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"max_norm={self.max_norm}, p={self.p}"
