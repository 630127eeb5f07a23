"""AdaGC: each tensor is bounded by its own running norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport
from lightning_distill.clipping.history_base import RuleByTensor
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients


class AdaGC(RuleByTensor):
    """g_i <- h_i * g_i for each tensor i, with 2-norms and a running norm gamma_i.

        first `warmup` steps:  h_i = min(1, max_norm / |g|)
                               gamma_i <- min(gamma_i, |h_i g_i|), the first time |h_i g_i|
        later:                 h_i = min(1, factor * gamma_i / |g_i|)
                               gamma_i <- b * gamma_i + (1 - b) * |h_i g_i|

    where |g| is over all tensors and b is `decay`. A running norm grows by at most (1 - b) * (factor - 1) a
    step, by default 0.1 %: a tensor whose gradients are tiny in the warm-up is slow for long.

    A gradient of zeros passes and leaves gamma_i as it is. A tensor first seen after the warm-up passes once,
    and that gradient is its gamma_i. Where |g| is not finite, all passes and nothing moves.

    Args:
        max_norm: Bound on the norm of all gradients in the warm-up, positive.
        factor: How far above its running norm a tensor may be, 1 or more.
        decay: b, from 0 to below 1.
        warmup: Steps of the warm-up, 1 or more.

    Raises:
        ConfigError: If an argument is out of range.
        CheckpointError: When used, if the history is that of a model none of whose names are here.

    Source: Wang et al., AdaGC (2502.11034), algorithm 1. There a gradient of zeros in the warm-up sets
    gamma_i to 0, which stops the tensor for ever.

    >>> rule, weight = AdaGC(warmup=1), torch.nn.Parameter(torch.zeros(2))
    >>> for size in (0.5, 5.0):
    ...     weight.grad = torch.tensor([0.0, size])
    ...     report = rule.clip({"weight": weight})
    >>> round(weight.grad[1].item(), 4)
    0.525
    """

    gamma: Tensor

    def __init__(
        self, max_norm: float = 1.0, factor: float = 1.05, decay: float = 0.98, warmup: int = 100
    ) -> None:
        super().__init__()
        faults = [
            ("max_norm", max_norm, 0 < max_norm < math.inf, "a positive number", 1.0),
            ("factor", factor, 1 <= factor < math.inf, "a number of 1 or more", 1.05),
            ("decay", decay, 0 <= decay < 1, "a number from 0 to below 1", 0.98),
            ("warmup", warmup, warmup >= 1, "1 step or more", 100),
        ]
        for name, found, fits, expected, usual in faults:
            if not fits:
                raise ConfigError(where=f"AdaGC.{name}", found=found, expected=expected, fix=f"try {usual}")
        self.max_norm, self.factor, self.decay, self.warmup = max_norm, factor, decay, warmup
        self.register_buffer("gamma", torch.zeros(0))
        self._at: tuple[tuple[int, ...], Tensor] = ((), torch.zeros(0, dtype=torch.int64))

    def buffers_of(self, count: int) -> Sequence[str]:
        """One vector."""
        return ["gamma"]

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale each tensor; reports the `norm` of all before, and the share of tensors that shrink."""
        at = self._indices(gradients)
        norms = gradients.norms()
        norm = torch.linalg.vector_norm(norms)
        warming, gamma = self.seen < self.warmup, self.gamma[at]
        # 0 stands for a running norm that is not known yet.
        known = torch.where(gamma > 0, self.factor * gamma, math.inf)
        bounds = torch.where(warming, norms * (self.max_norm / norm).clamp(max=1), known)
        clipped = torch.where(norm.isfinite() & (bounds < norms), bounds, norms)
        if gradients.fresh:
            self._move(at, gamma, clipped.float(), warming)
        gradients.scale(torch.where(clipped < norms, clipped / norms, 1.0))
        return ClipReport({"norm": norm, "clipped_tensors": (clipped < norms).float().mean()})

    def _indices(self, gradients: Gradients) -> Tensor:
        places = self.places(gradients)
        more = len(self._names) - len(self.gamma)
        if more:
            self.gamma = torch.cat([self.gamma, self.gamma.new_zeros(more)])
        if self._at[0] != places or self._at[1].device != self.gamma.device:
            self._at = places, torch.tensor(places).to(self.gamma.device, non_blocking=True)
        return self._at[1]

    def _move(self, at: Tensor, gamma: Tensor, clipped: Tensor, warming: Tensor) -> None:
        moved = torch.where(warming, torch.minimum(gamma, clipped), gamma.lerp(clipped, 1 - self.decay))
        moved = torch.where(gamma > 0, moved, clipped)
        finite = clipped.isfinite().all()
        self.gamma.index_copy_(0, at, torch.where(finite & (clipped > 0), moved, gamma))
        self.seen.add_(finite)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"max_norm={self.max_norm}, factor={self.factor}, decay={self.decay}, warmup={self.warmup}"
