"""Centred kernel alignment: the same geometry, whatever the coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_distill.losses.base import LayerLoss
from lightning_distill.structures import Batch, ModelOutput


def linear_cka(student: Tensor, teacher: Tensor) -> Tensor:
    """HSIC(X, Y) / sqrt(HSIC(X, X) * HSIC(Y, Y)) with linear kernels and the unbiased estimator.

    With K = X X^T and L = Y Y^T without their diagonals, of features centred over the batch, and 1 a vector
    of ones, B (B - 3) HSIC = tr(K L) + (1'K1)(1'L1) / ((B - 1)(B - 2)) - 2 / (B - 2) * 1'KL1. All of it
    follows from X^T X, X^T Y and Y^T Y where there are fewer features than samples: O(B d min(B, d)).

    Args:
        student: X, "batch ...", flattened to vectors; at least four rows.
        teacher: Y, "batch ...", of any other width; no gradient flows into it.

    Returns:
        0-d tensor of about 1 at most; it may be negative. 0, with gradient 0, where one side is constant or
        there are fewer than four rows.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited (1905.00414), section 3;
    the unbiased estimator is that of Song et al., Feature Selection via Dependence Maximization (JMLR 2012),
    equation 5. The paper's biased one goes to 1 for any two layers with more features than samples.

    >>> x = torch.rand(8, 4)
    >>> round(linear_cka(x, -3 * x.flip(1)).item(), 5)
    1.0
    """
    if len(student) < 4:
        return student.sum() * 0
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (x.flatten(1).to(wide) for x in (student, teacher.detach()))
    s, t = s - s.mean(dim=0), t - t.mean(dim=0)
    if max(s.shape[1], t.shape[1]) < len(s):
        products = s.T @ t, s.T @ s, t.T @ t
        norms = [x.square().sum() for x in products]
    else:
        k, m = s @ s.T, t @ t.T
        norms = [(k * m).sum(), k.square().sum(), m.square().sum()]
    a, b = s.square().sum(dim=1), t.square().sum(dim=1)
    across, mine, own = _hsic(norms[0], a, b), _hsic(norms[1], a, a), _hsic(norms[2], b, b)
    known = (mine > 0) & (own > 0)
    value = across / (mine.where(known, 1).sqrt() * own.where(known, 1).sqrt())
    return value.where(known, across * 0).to(student.dtype)


class CKA(LayerLoss):
    """1 - `linear_cka` between a layer of the student and one of the teacher.

    Large batches help: below about 32 rows the estimate is noisy.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        gather: Whether each process compares the rows of all processes.

    Source: as `linear_cka`.
    """

    def __init__(self, student: str = "embedding", teacher: str = "embedding", gather: bool = False) -> None:
        super().__init__([student], [teacher], gather)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor from 0 to a little above 1."""
        ((s, t),) = self.pairs(student, teacher, batch)
        return 1 - linear_cka(s, t)


def _hsic(norm: Tensor, k: Tensor, m: Tensor) -> Tensor:
    """B (B - 3) times the unbiased estimate, from tr(K L) and the diagonals of two centred Gram matrices."""
    rows, both = len(k), torch.dot(k, m)
    # Rows of a centred Gram matrix sum to 0, so without its diagonal to minus that.
    return norm - both + k.sum() * m.sum() / ((rows - 1) * (rows - 2)) - 2 / (rows - 2) * both
