"""The paper's clip rule."""

from __future__ import annotations

import torch

from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, range_at
from lightning_distill.gradients import Gradients
from lightning_distill.schedules.base import Schedule
from lightning_distill.units.base import Unit


class ValueClip(ClipRule):
    """g_clip = clip(g, -eps, eps), entry by entry; then theta <- theta - eta * g_clip.

    It is the formula and nothing else: NaN passes through, and an infinite entry becomes +-eps, a plausible
    number. Wrap the rule in a guard, such as `SkipNonFinite`, where infinite gradients can occur. With SGD
    the largest step of any weight is eta * eps. With Adam, eps below the typical |g| cancels out of the
    update. Eps is rounded to the gradient's type: in float16, one below 3e-8 is 0.

    Args:
        epsilon: The bound eps, positive: in units of the gradient, or of `unit`. May follow a schedule.
        unit: What an epsilon of 1 means, measured on the gradients before the clip; without it, 1.

    Raises:
        ConfigError: If epsilon is not a positive number, from the start or at some step of its schedule.

    Source: the method's gradient clip, g_clip = clip(g, -eps, eps).

    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, -0.5])
    >>> report = ValueClip(1.0).clip([w])
    >>> w.grad.tolist()
    [1.0, -0.5]
    """

    def __init__(self, epsilon: float | Schedule, unit: Unit | None = None) -> None:
        super().__init__()
        if not isinstance(epsilon, Schedule):
            check_positive(epsilon, "ValueClip.epsilon", 0.01)
        self.epsilon, self.unit = epsilon, unit

    def edit(self, gradients: Gradients) -> ClipReport:
        """Clamp each gradient in one pass; reports `epsilon` where it can change."""
        value = range_at(self.epsilon, gradients, "ValueClip.epsilon", 0.01)
        if self.unit is None:
            gradients.clamp(value)
            if not isinstance(self.epsilon, Schedule):
                return ClipReport()
            return ClipReport({"epsilon": torch.full((), value, device=gradients.device)})
        bound = value * self.unit(gradients.local, fresh=gradients.fresh, total=gradients.total)
        gradients.clamp(bound)
        return ClipReport({"epsilon": bound})

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"epsilon={self.epsilon}"
