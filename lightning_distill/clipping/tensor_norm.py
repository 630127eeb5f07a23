"""The norm of each gradient tensor by itself, bounded."""

from __future__ import annotations

from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, range_at
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.schedules.base import Schedule


class TensorNormClip(ClipRule):
    """g_i <- min(1, M / |g_i|_p) * g_i, each tensor by its own norm.

    One layer whose gradient explodes does not shrink those of the others, as it does under `NormClip`; in
    return, the direction of all gradients together turns. A tensor whose norm is not finite is left as it is.

    Args:
        max_norm: The bound M of every tensor, in units of the gradient; positive. May follow a schedule.
        p: Which norm, 1 or more; infinity is the largest entry.

    Raises:
        ConfigError: If max_norm is not a positive number, from the start or at some step of its schedule, or
            p is less than 1.

    Source: Pascanu et al., On the difficulty of training recurrent neural networks (1211.5063), algorithm 1,
    tensor by tensor; known as `clipnorm` in Keras.

    >>> import torch
    >>> w, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    >>> w.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    >>> report = TensorNormClip(1.0).clip([w, b])
    >>> [round(x, 6) for x in [*w.grad.tolist(), *b.grad.tolist()]]
    [0.6, 0.8, 0.3, 0.4]
    >>> report.values["clipped_tensors"].item()
    0.5
    """

    def __init__(self, max_norm: float | Schedule = 1.0, p: float = 2.0) -> None:
        super().__init__()
        if not isinstance(max_norm, Schedule):
            check_positive(max_norm, "TensorNormClip.max_norm", 1.0)
        if not p >= 1:
            raise ConfigError(where="TensorNormClip.p", found=p, expected="1 or more", fix="try 2.0")
        self.max_norm, self.p = max_norm, p

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale each; reports the `largest_norm` before and the `clipped_tensors` of the tensors."""
        bound = range_at(self.max_norm, gradients, "TensorNormClip.max_norm", 1.0)
        norms = gradients.norms(self.p)
        factors = (bound / norms).clamp(max=1.0).masked_fill(~norms.isfinite(), 1.0)
        gradients.scale(factors)
        return ClipReport({"largest_norm": norms.max(), "clipped_tensors": (factors < 1).float().mean()})

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"max_norm={self.max_norm}, p={self.p}"
