"""How sure the student is of its answers in the target domain."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_distill.losses import entropy
from lightning_distill.validators.base import Answers, TargetValidator


def negative_entropy(logits: Tensor) -> Tensor:
    """-mean_i H(p_i), with p_i = softmax(z_i) and H(p) = -sum_c p_c log p_c in nats.

    Args:
        logits: z, "rows classes", of the target.

    Returns:
        0-d tensor in [-log C, 0], at least float32; 0 where there is no row.

    Source: Morerio et al., Minimal-Entropy Correlation Alignment (1711.10288), where the entropy on the
    target chooses a hyperparameter.

    >>> bool(negative_entropy(torch.tensor([[50.0, 0.0]])) > negative_entropy(torch.tensor([[0.0, 0.0]])))
    True
    """
    return -entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)))


class NegativeEntropy(TargetValidator):
    """`negative_entropy` of the student's answers to the target rows.

    It fails where the student is sure and wrong. One that says the same class of everything has the best
    value there is, so it must not judge between models trained with entropy minimisation; see
    `MutualInformation`.

    Source: as `negative_entropy`.
    """

    name: ClassVar[str] = "negative_entropy"

    def score(self, source: Answers, target: Answers) -> Tensor:
        """In nats, 0 at most."""
        return negative_entropy(target.logits)
