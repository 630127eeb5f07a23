"""The contract of a task head: y = g(x)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class TaskHead(nn.Module, ABC):
    """Makes logits of the fused feature; built from the width of x and the number of logits."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits "batch outputs" of x, "batch dim"."""
