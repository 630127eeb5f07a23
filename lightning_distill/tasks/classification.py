"""Single-label classification."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNLABELLED, Outputs
from lightning_distill.tasks.base import Task, known_means, refuse_other_kind, weighted_mean

_NEVER: Final = -100.0
"""Log frequency of a class that no sample has: finite, and too low for the others to feel it."""


def labelled_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of the cross-entropy over labelled samples, in nats; 0 in a batch without a label.

    Args:
        logits: "batch classes".
        target: int64 "batch", `UNLABELLED` where there is none.
        weight: float "batch"; None is 1.

    >>> import torch
    >>> labelled_cross_entropy(torch.zeros(2, 4), torch.tensor([UNLABELLED, UNLABELLED])).item()
    0.0
    """
    values = F.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="none")
    return weighted_mean(values, target != UNLABELLED, weight)


class _CalibrationError(MulticlassCalibrationError):
    """Reads logits. Its parent takes logits that all lie in [0, 1] for probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.softmax(dim=1), target)


class _Agreement(MulticlassAccuracy):
    """Takes the teacher's most likely class for the truth."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target.argmax(dim=1))


class Classification(Task):
    """Cross-entropy; accuracy, macro F1 and expected calibration error (15 bins, L1).

    F1 is averaged over the classes that occur, as a label or as a prediction. The agreement with the teacher
    is the share of samples with the same most likely class.
    """

    outputs: ClassVar[Outputs] = Outputs.CLASSES
    monitor: ClassVar[tuple[str, str]] = ("accuracy", "max")

    def check(self, target: Tensor, num_outputs: int) -> None:
        """Targets are class indices; there are two classes or more."""
        refuse_other_kind(self, target, "one class a sample")
        _check_outputs(num_outputs)

    def loss(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """0-d tensor, nats."""
        return labelled_cross_entropy(logits, target, weight)

    def metrics(self, num_outputs: int) -> MetricCollection:
        """Accuracy over samples, F1 averaged over classes, calibration error."""
        _check_outputs(num_outputs)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_outputs, average="micro"),
                "macro_f1": MulticlassF1Score(num_outputs, average="macro"),
                "calibration_error": _CalibrationError(num_outputs, n_bins=15, norm="l1"),
            }
        )

    def agreement(self, num_outputs: int) -> Metric:
        """Share of samples with the same most likely class."""
        _check_outputs(num_outputs)
        return _Agreement(num_outputs, average="micro")

    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """Most likely class, int64 "batch", and softmax probabilities."""
        return {"prediction": logits.argmax(dim=1), "probabilities": logits.softmax(dim=1)}

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Log-likelihood of the label in nats; 1 where its class is the most likely one, else 0."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        entropy = F.cross_entropy(wide, target, ignore_index=UNLABELLED, reduction="none")
        known, right = target != UNLABELLED, (logits.argmax(dim=1) == target).to(wide.dtype)
        return {"log_likelihood": known_means(-entropy, known), "accuracy": known_means(right, known)}

    def constant_logits(self, target: Tensor, num_outputs: int) -> Tensor:
        """Log frequency of each class among labelled samples; -100 for a class that none of them has."""
        counts = target[target != UNLABELLED].bincount(minlength=num_outputs).double()
        return (counts / counts.sum().clamp(min=1)).log().clamp(min=_NEVER)


def _check_outputs(num_outputs: int) -> None:
    if num_outputs < 2:
        raise ConfigError(
            where="MultimodalModel.num_classes",
            found=f"{num_outputs} for the task Classification",
            expected="2 or more",
            fix="count the classes, or for one number set "
            "task: {class_path: lightning_distill.tasks.Regression}",
        )
