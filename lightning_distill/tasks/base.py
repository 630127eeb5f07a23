"""The contract of a task: its loss and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torchmetrics import MetricCollection


class Task(ABC):
    """What the student is finally asked to do with its logits."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over the labelled samples; 0 (with a gradient of 0) when there are none."""

    @abstractmethod
    def metrics(self, num_outputs: int) -> MetricCollection:
        """Fresh metrics, updated with (logits, target) of labelled samples."""
