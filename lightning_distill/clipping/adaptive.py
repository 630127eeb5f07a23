"""AGC: gradients bounded in proportion to the weights they change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, range_at
from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.gradients.norms import widest
from lightning_distill.schedules.base import Schedule


class AdaptiveClip(ClipRule):
    """g_i <- g_i * f * max(|w_i|, floor) / |g_i| where |g_i| > f * max(|w_i|, floor), unit by unit.

    A unit is what makes one output: a row of a matrix, a filter of a convolution (all dimensions but the
    first), or the whole of a tensor of 0 or 1 dimension. The floor lets weights that start at 0 learn. A unit
    whose gradient is not finite is left as it is; one whose squares overflow float32 counts as sqrt(size)
    times its largest entry, which clips it more.

    Where FSDP2 splits tensors by rows, matrices need no communication; all vectors together need two
    short sums.

    Args:
        factor: f, the largest |g_i| / |w_i|; positive. May follow a schedule. The paper takes 0.01 for
            batches of 4096, more for smaller ones.
        floor: Least |w_i| that counts, in units of the weights; positive.
        exclude: Parts of the model that are not clipped, by the start of their names, such as "head" or
            "encoders.image.stem". They are known by name only: give `clip` named parameters.

    Raises:
        ConfigError: If factor or floor is not a positive number; at the first step, if FSDP1 has cut tensors
            into pieces that know nothing of rows.

    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization (2102.06171),
    section 4, and 4.1 for the classifier, which is not clipped. timm leaves out the last two parameters by
    order, whatever they are; optax nothing, and its units are columns.

    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [30.0, 40.0]])); w.grad = torch.ones(2, 2)
    >>> report = AdaptiveClip(0.1).clip({"encoders.image.weight": w})
    >>> [[round(x, 4) for x in row] for row in w.grad.tolist()]  # |w_i| = 5 and 50, |g_i| = 1.4
    [[0.3536, 0.3536], [1.0, 1.0]]
    """

    def __init__(
        self, factor: float | Schedule = 0.01, floor: float = 1e-3, exclude: Sequence[str] = ("head",)
    ) -> None:
        super().__init__()
        if not isinstance(factor, Schedule):
            check_positive(factor, "AdaptiveClip.factor", 0.01)
        check_positive(floor, "AdaptiveClip.floor", 1e-3)
        self.factor, self.floor, self.exclude = factor, floor, tuple(exclude)

    def edit(self, gradients: Gradients) -> ClipReport:
        """Scale the units that are too large; reports the `clipped_units` of this process's units."""
        factor = range_at(self.factor, gradients, "AdaptiveClip.factor", 0.01)
        _refuse_flat(gradients)
        clipped = [torch.zeros((), dtype=torch.int64, device=gradients.device)]
        units = 0
        matrices = {n for n, p in zip(gradients.names, gradients.parameters, strict=True) if p.ndim > 1}
        whole = gradients.select(lambda name: name not in matrices and not self._excluded(name))
        if len(whole):
            clipped.append(self._clip_whole(whole, factor))
            units += len(whole)
        rows = gradients.select(lambda name: name in matrices and not self._excluded(name))
        for parameter, grad in zip(rows.parameters, rows.local, strict=True):
            clipped.append(self._clip_rows(parameter, grad, factor).to(gradients.device))
            units += len(grad)
        return ClipReport({"clipped_units": torch.stack(clipped).sum() / max(units, 1)})

    def _excluded(self, name: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in self.exclude)

    def _clip_whole(self, gradients: Gradients, factor: float) -> Tensor:
        weights = replace(gradients, local=tuple(_local(p.detach()) for p in gradients.parameters))
        norms, limits = gradients.norms(), factor * weights.norms().clamp(min=self.floor)
        large = (norms > limits) & norms.isfinite()
        gradients.scale((limits / norms).masked_fill(~large, 1.0))
        return large.sum()

    def _clip_rows(self, parameter: Tensor, grad: Tensor, factor: float) -> Tensor:
        norms, sizes = _row_norms(grad), _plain_row_norms(_local(parameter.detach()))
        for group in _row_groups(parameter.grad):
            squares = torch.stack([norms, sizes]).to(widest(grad.device)) ** 2
            dist.all_reduce(squares, group=group)
            norms, sizes = squares.sqrt()
        limits = factor * sizes.clamp(min=self.floor)
        large = (norms > limits) & norms.isfinite()
        _scale_rows(grad, limits / norms, large)
        return large.sum()

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"factor={self.factor}, floor={self.floor}, exclude={self.exclude}"


def _scale_rows(grad: Tensor, ratios: Tensor, large: Tensor) -> None:
    """On the CPU only rows that change are written, unless they are many."""
    ratios = ratios.to(torch.promote_types(grad.dtype, torch.float32))
    if grad.device.type == "cpu":
        at = large.nonzero().flatten()
        if not len(at):
            return
        if len(at) * 8 <= len(grad):
            grad.index_copy_(0, at, grad.index_select(0, at).mul_(_beside(ratios[at], grad)))
            return
    grad.mul_(_beside(ratios.masked_fill(~large, 1.0), grad))


def _beside(ratios: Tensor, grad: Tensor) -> Tensor:
    return ratios.view(-1, *[1] * (grad.ndim - 1))


def _plain_row_norms(x: Tensor, p: float = 2.0) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, p, dim=tuple(range(1, x.ndim)), dtype=dtype)


def _row_norms(x: Tensor) -> Tensor:
    norms = _plain_row_norms(x)
    if not x.numel() or (x.device.type == "cpu" and math.isfinite(norms.sum().item())):
        return norms
    top = _plain_row_norms(x, math.inf).to(widest(x.device))
    return torch.where(norms.isfinite(), norms.to(top.dtype), top * math.sqrt(x[0].numel()))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _row_groups(grad: Any) -> list[Any]:
    """Processes that have other parts of the same rows."""
    placements = getattr(grad, "placements", ())
    return [
        grad.device_mesh.get_group(i)
        for i, placement in enumerate(placements)
        if not placement.is_replicate() and placement.dim % grad.ndim > 0
    ]


def _refuse_flat(gradients: Gradients) -> None:
    for _, at in gradients.splits:
        for i in at:
            if not hasattr(gradients.parameters[i].grad, "placements"):
                raise ConfigError(
                    where=f"AdaptiveClip, gradient of {gradients.names[i]!r}",
                    found="a piece of it, cut by FSDP1 without regard to rows",
                    expected="whole rows",
                    fix="use FSDP2 (the strategy `model_parallel`), `ddp`, or NormClip",
                )
