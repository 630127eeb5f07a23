"""Minimum class confusion: no two classes are likely for the same samples of the target domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.target_base import TargetLoss


def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """(1 / C) * sum_j sum_{j' != j} M_jj' / sum_j'' M_jj'', with M = P^T W P: from 0 to 1 - 1 / C.

    P = softmax(z / T). W is diagonal, w_i = B (1 + exp(-H_i)) / sum_i' (1 + exp(-H_i')), with the entropy H_i
    of row i in nats: what is certain counts up to twice as much. No gradient flows into W.

    Since rows of P sum to 1, it is computed as (1 / C) * sum_j sum_i a_ij (1 - p_ij), where a_ij =
    w_i p_ij / sum_i' w_i' p_i'j: O(B C), and finite for a class that no row takes for possible.

    Args:
        logits: z, "batch classes".
        temperature: T > 0.

    Returns:
        0-d tensor; 1 - 1 / C, with a gradient of 0, for a single row, which cannot tell classes apart; 0 for
        no row.

    Source: Jin et al., Minimum Class Confusion for Versatile Domain Adaptation (1912.03699), section 3:
    probability rescaling, class correlation, uncertainty reweighting, category normalisation. The paper does
    not say whether W is constant; the authors' code detaches it, and so does this. T = 2.5 is that code's
    default.

    >>> z = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    >>> round(class_confusion(z, temperature=0.1).item(), 4), round(class_confusion(0 * z).item(), 4)
    (0.0, 0.5)
    """
    if not len(logits):
        return logits.sum()
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_p = F.log_softmax(logits.to(wide) / temperature, dim=1)
    with torch.no_grad():
        # The weights' own sum falls out of a_ij.
        weight = 1 + (log_p.exp() * log_p).sum(dim=1, keepdim=True).exp()
    among_rows = (log_p + weight.log()).softmax(dim=0)
    return (among_rows * -log_p.expm1()).sum(dim=0).mean().to(logits.dtype)


class MinimumClassConfusion(TargetLoss):
    """`class_confusion` of the student on the rows of the target domains. The usual weight is 1.

    It takes no part in aligning features, so that domains may hold other classes, or the same at other rates.
    A class is compared over a batch: use batches of several rows a class, or gather.

    Args:
        temperature: T > 0.
        gather: Whether each process reads the rows of all processes.

    Raises:
        ConfigError: If the temperature is not a positive number.

    Source: as `class_confusion`.
    """

    def __init__(self, temperature: float = 2.5, gather: bool = False) -> None:
        super().__init__(gather)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(
                where="MinimumClassConfusion.temperature",
                found=temperature,
                expected="a positive number",
                fix="try 2.5",
            )
        self.temperature = temperature

    def measure(self, logits: Tensor) -> Tensor:
        """0-d tensor."""
        return class_confusion(logits, self.temperature)

    def extra_repr(self) -> str:
        """Show the temperature."""
        return f"temperature={self.temperature}"
