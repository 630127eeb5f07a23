"""Multilabel classification: any number of classes a sample."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MultilabelAccuracy, MultilabelExactMatch, MultilabelF1Score
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from lightning_distill.structures import UNKNOWN, Outputs
from lightning_distill.tasks.base import (
    Task,
    known_means,
    refuse_other_kind,
    refuse_other_width,
    weighted_mean,
)

_SURE: Final = 100.0
"""Log odds of a label that every sample has, where it is known: finite, with a loss of 0."""


def known_binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over known entries of -t log s(z) - (1 - t) log(1 - s(z)), in nats; s is the sigmoid.

    Args:
        logits: z, "batch classes".
        target: t, int8 "batch classes": 0, 1, or `UNKNOWN`.
        weight: float "batch"; None is 1.

    >>> known_binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, UNKNOWN]])).item()
    0.6931471824645996
    """
    truth = target.clamp(min=0).to(logits.dtype)
    values = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return weighted_mean(values, target != UNKNOWN, weight)


class _F1(MultilabelF1Score):
    """Reads logits. Its parent takes logits that all lie in [0, 1] for probabilities."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(_probabilities(preds), target)


class _ExactMatch(MultilabelExactMatch):
    """Reads logits, as `_F1`."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(_probabilities(preds), target)


class _Agreement(MultilabelAccuracy):
    """Takes the classes the teacher names for the truth."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(_probabilities(preds), _named(target).long())


class _MeanAveragePrecision(Metric):
    """Mean of the average precision over the classes some sample has; 0 where no sample has any."""

    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        # Flat and float, as torchmetrics makes up an empty state of a process that has seen no label.
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(_probabilities(preds).flatten())
        self.target.append(target.float().flatten())

    def compute(self) -> Tensor:
        preds = dim_zero_cat(self.preds).view(-1, self.num_labels)
        target = dim_zero_cat(self.target).view(-1, self.num_labels).long()
        found = []
        for p, t in zip(preds.unbind(dim=1), target.unbind(dim=1), strict=True):
            if (t == 1).any():
                found.append(binary_average_precision(p[t != UNKNOWN], t[t != UNKNOWN]))
        return torch.stack(found).mean() if found else preds.new_zeros(())


class Multilabel(Task):
    """Binary cross-entropy a class; micro and macro F1, mean average precision, exact match.

    A class is named where its probability is above 0.5. Entries that are `UNKNOWN` count nowhere; a sample
    matches exactly if all its known entries do. Macro F1 is over all classes, and one that is neither there
    nor named counts 0; the mean average precision leaves out classes that no sample has. The agreement with
    the teacher is the share of all entries in which both name the class or both do not.
    """

    outputs: ClassVar[Outputs] = Outputs.LABELS
    monitor: ClassVar[tuple[str, str]] = ("macro_f1", "max")

    def check(self, target: Tensor, num_outputs: int) -> None:
        """Targets are int8 "batch classes"."""
        refuse_other_kind(self, target, "any number of classes a sample")
        refuse_other_width(self, target, num_outputs)

    def loss(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """0-d tensor, nats an entry."""
        return known_binary_cross_entropy(logits, target, weight)

    def metrics(self, num_outputs: int) -> MetricCollection:
        """F1 over entries, F1 averaged over classes, mean average precision, exact match."""
        return MetricCollection(
            {
                "micro_f1": _F1(num_outputs, average="micro", ignore_index=UNKNOWN),
                "macro_f1": _F1(num_outputs, average="macro", ignore_index=UNKNOWN),
                "mean_average_precision": _MeanAveragePrecision(num_outputs),
                "exact_match": _ExactMatch(num_outputs, ignore_index=UNKNOWN),
            }
        )

    def agreement(self, num_outputs: int) -> Metric:
        """Share of entries in which both name the class or both do not."""
        return _Agreement(num_outputs, average="micro")

    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """Which classes are named, bool "batch classes", and their probabilities."""
        return {"prediction": _named(logits), "probabilities": _probabilities(logits)}

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Log-likelihood in nats an entry, and the share of right entries, over a sample's known entries."""
        wide, known = logits.to(torch.promote_types(logits.dtype, torch.float32)), target != UNKNOWN
        truth = target.clamp(min=0).to(wide.dtype)
        entropy = F.binary_cross_entropy_with_logits(wide, truth, reduction="none")
        right = (_named(logits) == (target == 1)).to(wide.dtype)
        return {"log_likelihood": known_means(-entropy, known), "accuracy": known_means(right, known)}

    def constant_logits(self, target: Tensor, num_outputs: int) -> Tensor:
        """Log odds of each label over its known entries.

        A label that all samples have gets 100, one that none has gets -100, one that is nowhere known gets 0.
        """
        has, lacks = ((target == value).sum(dim=0).double() for value in (1, 0))
        return (has.log() - lacks.log()).nan_to_num(0.0).clamp(-_SURE, _SURE)


def _probabilities(logits: Tensor) -> Tensor:
    return logits.float().sigmoid()


def _named(logits: Tensor) -> Tensor:
    return _probabilities(logits) > 0.5
