"""The contract of a task: its loss, its metrics, and what it makes of logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Outputs


class Task(ABC):
    """What the student is finally asked to do with its logits."""

    outputs: ClassVar[Outputs]
    """What the logits stand for."""
    agreement_name: ClassVar[str] = "agreement"
    """What `agreement` is called where it is logged."""
    monitor: ClassVar[tuple[str, str]] = ("loss", "min")
    """The validation metric that tells which epoch is best, and whether it is to be "min" or "max"."""

    @abstractmethod
    def check(self, target: Tensor, num_outputs: int) -> None:
        """Refuse targets of another kind, or a number of outputs that cannot be.

        Args:
            target: As in `Batch`; any number of samples.
            num_outputs: Width of the logits.

        Raises:
            ConfigError: With the task that fits.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted mean over known targets; 0 (with a gradient of 0) when there are none.

        Args:
            logits: "batch outputs".
            target: As in `Batch`.
            weight: float "batch", of each sample; None weighs all of them 1.

        Returns:
            0-d tensor.
        """

    @abstractmethod
    def metrics(self, num_outputs: int) -> MetricCollection:
        """Fresh metrics, updated with (logits, target) of labelled samples."""

    @abstractmethod
    def agreement(self, num_outputs: int) -> Metric:
        """A fresh metric of how near the student is to the teacher, updated with the logits of both."""

    @abstractmethod
    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """What the logits say: "prediction", and where there are such, "probabilities" "batch outputs"."""

    @abstractmethod
    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """How good the answer to each sample is; larger is better.

        Args:
            logits: "batch outputs".
            target: As in `Batch`.

        Returns:
            Name -> "batch", at least float32; NaN where nothing is known. The first is minus the loss of the
            sample alone. What is called "accuracy" is a share of 1.
        """

    @abstractmethod
    def constant_logits(self, target: Tensor, num_outputs: int) -> Tensor:
        """The one answer with the least loss on these samples, for a model that reads nothing.

        Args:
            target: As in `Batch`; any number of samples.
            num_outputs: Width of the logits, which class indices do not tell.

        Returns:
            float64 "outputs", finite.
        """


def weighted_mean(values: Tensor, known: Tensor, weight: Tensor | None = None) -> Tensor:
    """sum(w * l) / sum(w) over known entries; 0, with a gradient of 0, where the weights sum to 0.

    Args:
        values: float "batch" or "batch outputs", finite where not known.
        known: bool, of the same shape.
        weight: float "batch", 0 or more; None is 1.

    Returns:
        0-d tensor, at least float32.

    >>> known = torch.tensor([True, True, False])
    >>> weighted_mean(torch.tensor([1.0, 4.0, 9.0]), known, torch.tensor([2.0, 1.0, 5.0])).item()
    2.0
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    w = known.to(values.dtype)
    if weight is not None:
        w = w * weight.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    total = w.sum()
    return (w * values).sum() / total.masked_fill(total == 0, 1.0)


def known_means(values: Tensor, known: Tensor) -> Tensor:
    """Mean of each sample over its known entries; NaN where there is none.

    Args:
        values: float "batch" or "batch outputs", finite where not known.
        known: bool, of the same shape.

    Returns:
        "batch".

    >>> known_means(torch.tensor([[1.0, 9.0], [5.0, 5.0]]), torch.tensor([[True, False], [False, False]]))
    tensor([1., nan])
    """
    w, values = known.to(values.dtype).view(len(known), -1), values.reshape(len(known), -1)
    return (w * values).sum(dim=1) / w.sum(dim=1)


def refuse_other_kind(task: Task, target: Tensor, kind: str) -> None:
    """Refuse targets that are not of the kind a task reads.

    Args:
        task: Which asks.
        target: As in `Batch`.
        kind: One of "one class a sample", "any number of classes a sample" and "numbers".

    Raises:
        ConfigError: With the task that fits.
    """
    found, fitting = _kind(target)
    if found != kind:
        raise ConfigError(
            where=f"DistillationModule.task, {type(task).__name__}",
            found=f"targets that hold {found} ({target.dtype}, {target.ndim} dimensions)",
            expected=f"targets that hold {kind}",
            fix=f"set task: {{class_path: lightning_distill.tasks.{fitting}}}, or let the data source read "
            f"{kind}",
        )


def _kind(target: Tensor) -> tuple[str, str]:
    if target.is_floating_point():
        return "numbers", "Regression"
    if target.ndim == 2:
        return "any number of classes a sample", "Multilabel"
    return "one class a sample", "Classification"


def refuse_other_width(task: Task, target: Tensor, num_outputs: int) -> None:
    """Refuse targets "batch outputs" of another width than the logits.

    Raises:
        ConfigError: With both widths.
    """
    if target.ndim != 2 or target.shape[1] != num_outputs:
        raise ConfigError(
            where=f"DistillationModule.task, {type(task).__name__}",
            found=f"targets of shape {tuple(target.shape)} and {num_outputs} outputs",
            expected=f"targets of shape (batch, {num_outputs})",
            fix="set the model's num_classes to the number of target columns"
            if target.ndim == 2
            else "give targets a second dimension, also where it is 1",
        )
