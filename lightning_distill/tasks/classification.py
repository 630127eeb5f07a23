"""Single-label classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from lightning_distill.structures import UNLABELLED
from lightning_distill.tasks.base import Task


def labelled_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over labelled samples, in nats; 0 in a batch without a label.

    Args:
        logits: "batch classes".
        target: int64 "batch", `UNLABELLED` where there is none.

    >>> import torch
    >>> labelled_cross_entropy(torch.zeros(2, 4), torch.tensor([UNLABELLED, UNLABELLED])).item()
    0.0
    """
    total = F.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="sum")
    return total / (target != UNLABELLED).sum().clamp(min=1)


class _CalibrationError(MulticlassCalibrationError):
    """Reads logits. Its parent takes logits that all lie in [0, 1] for probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.softmax(dim=1), target)


class Classification(Task):
    """Cross-entropy; accuracy, macro F1 and expected calibration error (15 bins, L1)."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """0-d tensor, nats."""
        return labelled_cross_entropy(logits, target)

    def metrics(self, num_outputs: int) -> MetricCollection:
        """Accuracy over samples, F1 averaged over classes, calibration error."""
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_outputs, average="micro"),
                "macro_f1": MulticlassF1Score(num_outputs, average="macro"),
                "calibration_error": _CalibrationError(num_outputs, n_bins=15, norm="l1"),
            }
        )
