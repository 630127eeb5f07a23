"""Tasks: loss and metrics of what the student is for."""

from lightning_distill.tasks.base import (
    Task,
    known_means,
    refuse_other_kind,
    refuse_other_width,
    weighted_mean,
)
from lightning_distill.tasks.classification import Classification, labelled_cross_entropy
from lightning_distill.tasks.multilabel import Multilabel, known_binary_cross_entropy
from lightning_distill.tasks.regression import Regression, known_squared_error

__all__ = [
    "Classification",
    "Multilabel",
    "Regression",
    "Task",
    "known_binary_cross_entropy",
    "known_means",
    "known_squared_error",
    "labelled_cross_entropy",
    "refuse_other_kind",
    "refuse_other_width",
    "weighted_mean",
]
