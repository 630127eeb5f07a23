"""The contract of a feature clip: it bounds a feature, or in the backward pass its gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.units import Unit


class FeatureClip(nn.Module, ABC):
    """Bounds a feature, of one modality before fusion or the fused one, so that none drowns the others.

    Every clip leaves 0 at 0, so that the rows of an absent modality stay zero.
    """

    bounds_feature: bool = True
    """Whether the forward pass changes anything; where it does not, no saturation is logged."""

    @abstractmethod
    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip a feature.

        Args:
            x: "batch dim", or tokens "batch tokens dim", each of which is a row of its own.
            present: bool "batch", or "batch tokens", the rows that count where a clip measures x; None is all
                of them. It has no other effect.
            fresh: Whether what the clip remembers may move, in training; False where a batch is looked at
                again.

        Returns:
            A tensor of the same shape and dtype.
        """

    @abstractmethod
    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Which entries of the unclipped x lie beyond the bound: bool "batch dim"."""

    def saturated_share(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Share of the entries of the unclipped x other than 0 that lie beyond the bound.

        Zeros (of a ReLU, of rows that are not present) lie beyond no bound: with them a feature of which
        every living entry is saturated would seem half free.

        Args:
            x: "batch dim", 0 in rows that are not present.
            present: bool "batch", the rows that count where the bound is measured on x.

        Returns:
            0-d float32 tensor in [0, 1]; 0 where all of x is 0, or x is empty.
        """
        return share_among(self.saturated(x, present), x.bool())


class ElementwiseClip(FeatureClip):
    """Bounds each entry by the same number: eps, or eps units of the feature.

    In training the unit's history follows the features; in evaluation it is only read. Each process
    measures its own rows. Under activation checkpointing the history would move twice: keep the clip out.

    Args:
        epsilon: The bound eps, positive.
        unit: What an epsilon of 1 means, measured on the feature itself; None is the feature's own units.

    Raises:
        ConfigError: If epsilon is not a positive number.
    """

    def __init__(self, epsilon: float, unit: Unit | None = None) -> None:
        super().__init__()
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ConfigError(
                where=f"{type(self).__name__}.epsilon",
                found=epsilon,
                expected="a positive number",
                fix="try 3.0",
            )
        self.epsilon = epsilon
        self.unit = unit

    def bound(self, x: Tensor, present: Tensor | None, fresh: bool) -> float | Tensor:
        """The bound in the feature's own units: a number, or a 0-d tensor where there is a unit.

        Args:
            x: "batch dim".
            present: bool "batch", or None.
            fresh: Whether the unit's history may move.
        """
        if self.unit is None:
            return self.epsilon
        bound = self.epsilon * self.unit([_rows_there(x.detach(), present)], fresh=fresh)
        return bound.clamp(min=torch.finfo(x.dtype).tiny)  # no 0 in float16, by which 0 may not be divided

    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Entries with |x| > eps."""
        return x.abs() > self.bound(x, present, fresh=False)

    def extra_repr(self) -> str:
        """Show the bound."""
        return f"epsilon={self.epsilon}"


def share_among(found: Tensor, counted: Tensor) -> Tensor:
    """Share of the counted entries that are found: 0-d float32, 0 where none is counted.

    Args:
        found: bool "batch dim".
        counted: bool "batch dim".
    """
    return (found & counted).count_nonzero().float() / counted.count_nonzero().clamp(min=1)


def _rows_there(x: Tensor, present: Tensor | None) -> Tensor:
    """The rows to measure, "rows dim": present ones stand in for absent ones, to keep the number.

    Where no row is present all is NaN, which no unit keeps.

    >>> x = torch.tensor([[1.0], [0.0], [2.0], [0.0]])
    >>> _rows_there(x, torch.tensor([True, False, True, False])).flatten().tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    x = x.flatten(0, -2)
    if present is None:
        return x
    present = present.flatten()
    count = present.sum()
    order = (~present).to(torch.uint8).argsort(stable=True)
    turn = torch.arange(len(x), device=x.device) % count.clamp(min=1)
    return x[order[turn]].masked_fill(count == 0, math.nan)
