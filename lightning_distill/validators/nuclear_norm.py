"""How sure and how diverse the student's answers in the target domain are, by their nuclear norm."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.validators.base import Answers, TargetValidator


def batch_nuclear_norm(logits: Tensor) -> Tensor:
    """||P||_* / sqrt(n min(n, C)), with the rows p_i = softmax(z_i) of P; ||P||_* sums its singular values.

    Args:
        logits: z, "n C", of the target.

    Returns:
        0-d tensor in (0, 1], at least float32: 1 where each answer is sure and all classes are said equally
        often, 1 / sqrt(C) where all answers are one class, 1 / C where all are uniform, for n >= C; 0 where
        there is no row.

    Source: Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization (2003.12237),
    section 3, there a training objective, ||P||_* / n of one batch. Here all target rows count at once; the
    other constant is the upper bound of the norm, so that data sets of other sizes can be read beside it.

    >>> round(batch_nuclear_norm(50 * torch.eye(4)).item(), 4)
    1.0
    """
    if not len(logits):
        return logits.sum()
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
    return torch.linalg.svdvals(p).sum() / sqrt(len(p) * min(p.shape))


class BatchNuclearNorm(TargetValidator):
    """`batch_nuclear_norm` of the student's answers to the target rows.

    It rewards sure answers and all classes, much as `MutualInformation` does, and weighs a rare class more.
    It fails in the same places: swapped classes, and a target with few of the classes.

    Source: as `batch_nuclear_norm`.
    """

    name: ClassVar[str] = "batch_nuclear_norm"

    def score(self, source: Answers, target: Answers) -> Tensor:
        """In (0, 1]."""
        return batch_nuclear_norm(target.logits)
