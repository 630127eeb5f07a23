"""How much the student's answers in the target domain tell the samples apart."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.losses import information_maximisation
from lightning_distill.validators.base import Answers, TargetValidator


def mutual_information(logits: Tensor) -> Tensor:
    """H(mean_i p_i) - mean_i H(p_i), with p_i = softmax(z_i) and H(p) = -sum_c p_c log p_c in nats.

    Args:
        logits: z, "rows classes", of the target.

    Returns:
        0-d tensor in [0, log C] but for rounding, at least float32; 0 where there is no row.

    Source: Krause et al., Discriminative Clustering by Regularized Information Maximization (NeurIPS 2010),
    section 2, there a training objective, as in SHOT (2002.08546). All target rows count at once, where
    training sees one batch.

    >>> one, other = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    >>> round(mutual_information(torch.cat([one, other])).item(), 4)  # log 2
    0.6931
    """
    return -information_maximisation(logits.to(torch.promote_types(logits.dtype, torch.float32)))


class MutualInformation(TargetValidator):
    """`mutual_information` of the student's answers to the target rows.

    Unlike `NegativeEntropy` it gives 0 to a student that says the same class of everything. It fails where
    classes are swapped, since it does not know which answer is which, and where the target's classes are far
    from equally frequent, since it favours answers that are.

    Source: as `mutual_information`.
    """

    name: ClassVar[str] = "mutual_information"

    def score(self, source: Answers, target: Answers) -> Tensor:
        """In nats."""
        return mutual_information(target.logits)
