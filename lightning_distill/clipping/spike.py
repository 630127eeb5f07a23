"""The clip of single entries that spike, from SPAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lightning_distill.clipping.base import ClipReport
from lightning_distill.clipping.history_base import RuleByTensor
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.gradients import Gradients


class SpikeClip(RuleByTensor):
    """g <- sign(g) * sqrt(theta * v) where g^2 > theta * v, entry by entry; then v <- b * v + (1 - b) * g^2.

    v starts at 0 and is not corrected for it, so the bound is about 10 times the typical |g| at step 20, and
    71 times later. The first `warmup` steps pass. An entry that has only had zeros so far (a rare word, an
    unused tensor) passes too: a bound of 0 would stop it for ever. If any entry of a step is not finite, all
    pass and nothing moves.

    Costs a float32 copy of the gradients in memory, and as much again in the checkpoint. Under FSDP1 a
    checkpoint holds the first process's pieces only, and is refused.

    Args:
        theta: How far the square may be above its running mean, 1 or more.
        decay: b, above 0 and below 1: that of Adam's second moment.
        warmup: Steps that pass, 1 or more.

    Raises:
        ConfigError: If an argument is out of range.
        CheckpointError: When used, if the history is that of another model, or of pieces cut by FSDP1.

    Source: Huang et al., SPAM (2501.06842), section 3 and algorithm 1, its spike-aware clipping. There v is
    Adam's own; here the rule keeps one, of the gradients after this clip, and goes with any optimizer. The
    reset of the momentum belongs to the optimizer and is left out, and so is the rest after each reset.

    >>> rule, weight = SpikeClip(theta=100.0, decay=0.99, warmup=1), torch.nn.Parameter(torch.zeros(2))
    >>> for size in (1.0, 9.0):
    ...     weight.grad = torch.tensor([1.0, size])
    ...     report = rule.clip({"weight": weight})
    >>> [round(g, 3) for g in weight.grad.tolist()]
    [1.0, 1.0]
    """

    def __init__(self, theta: float = 5000.0, decay: float = 0.999, warmup: int = 20) -> None:
        super().__init__()
        faults = [
            ("theta", theta, 1 <= theta < math.inf, "a number of 1 or more", 5000.0),
            ("decay", decay, 0 < decay < 1, "a number above 0 and below 1", 0.999),
            ("warmup", warmup, warmup >= 1, "1 step or more", 20),
        ]
        for name, found, fits, expected, usual in faults:
            if not fits:
                raise ConfigError(
                    where=f"SpikeClip.{name}", found=found, expected=expected, fix=f"try {usual}"
                )
        self.theta, self.decay, self.warmup = theta, decay, warmup

    def buffers_of(self, count: int) -> Sequence[str]:
        """Running mean squares, one buffer for each gradient."""
        return [f"square_{place}" for place in range(count)]

    def edit(self, gradients: Gradients) -> ClipReport:
        """Bring spiking entries back to their bounds."""
        squares = self._squares(gradients)
        finite, warming = _all_finite(gradients), self.seen < self.warmup
        for grad, square in zip(gradients.local, squares, strict=True):
            here = finite.to(grad.device)
            # In place throughout: on the CPU, new memory costs more than what is done in it.
            bound = (square * self.theta).sqrt_()
            torch.threshold_(bound, 0.0, math.inf)
            bound.masked_fill_(~here | warming.to(grad.device), math.inf)
            torch.minimum(grad, bound, out=grad)
            torch.maximum(grad, bound.neg_(), out=grad)
            if gradients.fresh:
                torch.mul(square, self.decay, out=bound).addcmul_(grad, grad, value=1 - self.decay)
                # The square of a finite number need not be one.
                bound.clamp_(max=torch.finfo(bound.dtype).max)
                torch.where(here, bound, square, out=square)
        if gradients.fresh:
            self.seen.add_(finite)
        return ClipReport()

    def _squares(self, gradients: Gradients) -> list[Tensor]:
        """The running mean squares of these gradients; zeros for new ones."""
        if self._restored:
            _refuse_pieces(gradients)
        found = []
        for i, place in enumerate(self.places(gradients)):
            own = gradients.parameters[i].grad
            name, grad = f"square_{place}", cast(Any, gradients.local[i] if own is None else own)
            if name not in self._buffers:
                self.register_buffer(name, torch.zeros_like(grad, dtype=torch.float32))
            square: Any = self.get_buffer(name)
            if square.shape != grad.shape:
                raise CheckpointError(
                    where=f"history of SpikeClip for {gradients.names[i]!r}",
                    found=f"shape {tuple(square.shape)}",
                    expected=f"{tuple(grad.shape)}, as the gradient has",
                    fix="load the checkpoint of the same model, or start without history",
                )
            found.append(square.to_local() if hasattr(square, "to_local") else square)
        return found

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"theta={self.theta}, decay={self.decay}, warmup={self.warmup}"


def _refuse_pieces(gradients: Gradients) -> None:
    split = (gradients.parameters[i].grad for _, at in gradients.splits for i in at)
    if any(not hasattr(grad, "placements") for grad in split):
        raise CheckpointError(
            where="history of SpikeClip",
            found="a checkpoint under FSDP1, which holds the pieces of one process",
            expected="the history of whole tensors",
            fix="use FSDP2 (the strategy `model_parallel`), or start without history",
        )


def _all_finite(gradients: Gradients) -> Tensor:
    """0-d bool, of whole tensors; by the extremes, which cost less to find than a mask."""
    bad = [_has_bad(grad).to(gradients.device) for grad in gradients.local]
    return ~gradients.total(torch.stack(bad).float(), largest=True).bool().any()


def _has_bad(grad: Tensor) -> Tensor:
    if not grad.numel():
        return torch.zeros((), dtype=torch.bool, device=grad.device)
    low, high = grad.aminmax()
    return ~(low.isfinite() & high.isfinite())
