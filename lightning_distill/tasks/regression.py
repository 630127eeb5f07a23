"""Regression of one or several numbers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from lightning_distill.structures import Outputs
from lightning_distill.tasks.base import (
    Task,
    known_means,
    refuse_other_kind,
    refuse_other_width,
    weighted_mean,
)


def known_squared_error(outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of (y - t)^2 over known entries; 0 where there are none.

    Args:
        outputs: y, "batch outputs".
        target: t, float "batch outputs", NaN where not known.
        weight: float "batch"; None is 1.

    >>> known_squared_error(torch.zeros(1, 2), torch.tensor([[3.0, torch.nan]])).item()
    9.0
    """
    return weighted_mean(*_squares(outputs, target), weight)


def _squares(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(y - t)^2, 0 where not known, and which entries are known."""
    known = target.isfinite()
    # Not-known entries are filled before, since 0 * NaN would be NaN in the gradient.
    difference = (outputs - target.masked_fill(~known, 0.0)).masked_fill(~known, 0.0)
    return difference.to(torch.promote_types(difference.dtype, torch.float32)).square(), known


class _MeanAbsoluteError(MeanAbsoluteError):
    """Over known entries."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(*_known(preds, target))


class _RootMeanSquaredError(MeanSquaredError):
    """Over known entries."""

    def __init__(self) -> None:
        super().__init__(squared=False)

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(*_known(preds, target))


class _R2(Metric):
    """1 - sum (y - t)^2 / sum (t - mean t)^2, averaged over outputs with two targets or more that differ.

    0 where there is no such output. torchmetrics' own takes no unknown entries, and subtracts two sums of
    squares, which leaves no digits for numbers far from 0.
    """

    full_state_update = False
    count: Tensor
    mean: Tensor
    spread: Tensor
    residual: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        # Without a reduction: processes' states arrive stacked, and means do not add up.
        for name in ("count", "mean", "spread", "residual"):
            self.add_state(name, torch.zeros(1, num_outputs), dist_reduce_fx=None)

    def update(self, preds: Tensor, target: Tensor) -> None:
        known = target.isfinite()
        t = target.float().masked_fill(~known, 0.0)
        count = known.sum(dim=0).float()
        mean = t.sum(dim=0) / count.clamp(min=1)
        spread = (t - mean).masked_fill(~known, 0.0).square().sum(dim=0)
        residual = (preds.float() - t).masked_fill(~known, 0.0).square().sum(dim=0)
        new = [torch.stack(pair) for pair in zip(self._state(), (count, mean, spread, residual), strict=True)]
        self.count, self.mean, self.spread, self.residual = (x[None] for x in _merged(*new))

    def compute(self) -> Tensor:
        count, _, spread, residual = self._state()
        usable = (count > 1) & (spread > 0)
        if not bool(usable.any()):
            return spread.new_zeros(())
        return (1 - residual[usable] / spread[usable]).mean()

    def _state(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width = self.count.shape[-1]
        parts = (x.reshape(-1, width) for x in (self.count, self.mean, self.spread, self.residual))
        return _merged(*parts)


def _merged(
    count: Tensor, mean: Tensor, spread: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistics "parts outputs" of several sets, as those of the whole (Chan et al., 1979)."""
    total = count.sum(dim=0)
    whole = mean[0] + ((mean - mean[0]) * count).sum(dim=0) / total.clamp(min=1)
    between = (count * (mean - whole).square()).sum(dim=0)
    return total, whole, spread.sum(dim=0) + between, residual.sum(dim=0)


class Regression(Task):
    """Mean squared error; mean absolute error, root mean squared error, R^2.

    Loss and errors are over all known entries together, so several outputs should be of one scale:
    standardise the columns otherwise. R^2 is averaged over outputs. The agreement with the teacher is the
    mean absolute difference to its outputs.
    """

    outputs: ClassVar[Outputs] = Outputs.NUMBERS
    agreement_name: ClassVar[str] = "teacher_mae"
    monitor: ClassVar[tuple[str, str]] = ("mae", "min")

    def check(self, target: Tensor, num_outputs: int) -> None:
        """Targets are float "batch outputs"."""
        refuse_other_kind(self, target, "numbers")
        refuse_other_width(self, target, num_outputs)

    def loss(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """0-d tensor, in squared units of the target."""
        return known_squared_error(logits, target, weight)

    def metrics(self, num_outputs: int) -> MetricCollection:
        """Errors in units of the target, and R^2."""
        return MetricCollection(
            {"mae": _MeanAbsoluteError(), "rmse": _RootMeanSquaredError(), "r2": _R2(num_outputs)}
        )

    def agreement(self, num_outputs: int) -> Metric:
        """Mean absolute difference to the teacher."""
        return _MeanAbsoluteError()

    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """The outputs, float "batch outputs"."""
        return {"prediction": logits}

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Minus the mean squared error of a sample over its known entries."""
        squares, known = _squares(logits, target)
        return {"minus_squared_error": known_means(-squares, known)}

    def constant_logits(self, target: Tensor, num_outputs: int) -> Tensor:
        """Mean of each output over its known entries; 0 where none is known."""
        known = target.isfinite()
        total = target.double().masked_fill(~known, 0.0).sum(dim=0)
        return total / known.sum(dim=0).clamp(min=1)


def _known(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    known = target.isfinite()
    return preds[known].float(), target[known].float()
