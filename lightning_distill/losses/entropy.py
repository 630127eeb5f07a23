"""Entropy of what is said of the target domain: certain of each sample, and of all classes on the whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.losses.target_base import TargetLoss


def entropy(logits: Tensor) -> Tensor:
    """(1 / B) * sum_i H(p_i), with H(p) = -sum_j p_j log p_j and p = softmax(z), in nats.

    Args:
        logits: z, "batch classes".

    Returns:
        0-d tensor from 0 to log C; 0 for no row.

    Source: Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization (NeurIPS 2004), section 2.

    >>> round(entropy(torch.zeros(3, 4)).item(), 4), entropy(torch.tensor([[1e3, 0.0]])).item()
    (1.3863, 0.0)
    """
    if not len(logits):
        return logits.sum()
    return _entropy(_log_probabilities(logits)).mean().to(logits.dtype)


def information_maximisation(logits: Tensor) -> Tensor:
    """(1 / B) * sum_i H(p_i) - H((1 / B) * sum_i p_i), in nats: minus the information of rows about classes.

    Small where each row is certain and all classes are taken equally often over the batch. The second part
    keeps all rows from falling into one class, which minimising entropy alone allows.

    Args:
        logits: z, "batch classes", with p = softmax(z).

    Returns:
        0-d tensor from -log C to 0; 0, with a gradient of 0, for one row, for rows that are all alike, or
        for none.

    Source: Liang et al., Do We Really Need to Access the Source Data? (2002.08546), section 3.2: L_ent +
    L_div. Here without the authors' 1e-5 inside the logarithms.

    >>> round(information_maximisation(torch.tensor([[99.0, 0.0], [0.0, 99.0]])).item(), 4)
    -0.6931
    """
    if not len(logits):
        return logits.sum()
    log_p = _log_probabilities(logits)
    on_the_whole = log_p.logsumexp(dim=0) - math.log(len(log_p))
    return (_entropy(log_p).mean() - _entropy(on_the_whole)).to(logits.dtype)


class EntropyMinimisation(TargetLoss):
    """`entropy` of the student on the rows of the target domains. Usual weights are 0.01 to 0.1.

    It rewards whatever the student is already sure of, right or wrong, and one class for all rows is a
    minimum: beside it a term is needed that knows better, or `InformationMaximisation` in its place.

    Args:
        gather: Whether each process reads the rows of all processes; it matters only where processes have
            different numbers of target rows.

    Source: as `entropy`.
    """

    def measure(self, logits: Tensor) -> Tensor:
        """0-d tensor, nats."""
        return entropy(logits)


class InformationMaximisation(TargetLoss):
    """`information_maximisation` of the student on the rows of the target domains. The usual weight is 1.

    It pulls towards classes that are equally frequent in each batch: where those of the target are not, or
    a batch is smaller than the number of classes, give it less weight.

    Args:
        gather: Whether each process reads the rows of all processes.

    Source: as `information_maximisation`.
    """

    def measure(self, logits: Tensor) -> Tensor:
        """0-d tensor, nats."""
        return information_maximisation(logits)


def _log_probabilities(logits: Tensor) -> Tensor:
    return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)


def _entropy(log_p: Tensor) -> Tensor:
    """Over the last dimension."""
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=-1)  # 0 * -inf is 0 here
