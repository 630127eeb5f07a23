"""Similarity preserving: which samples excite a layer alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.losses.base import LayerLoss
from lightning_distill.structures import Batch, ModelOutput


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / B^2) * |G_s - G_t|_F^2, where G = A A^T with each row divided by its Euclidean norm.

    Args:
        student: A, "batch ...", flattened to vectors.
        teacher: "batch ...", of any other width; no gradient flows into it.

    Returns:
        0-d tensor >= 0.

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation (1907.09682), equations 1 to 4.

    >>> x = torch.rand(4, 8)
    >>> similarity_preserving(x, torch.cat([x, x], dim=1)).item() < 1e-12
    True
    """
    if not len(student):
        return student.sum()
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (_similarities(x.flatten(1).to(wide)) for x in (student, teacher.detach()))
    return F.mse_loss(s, t).to(student.dtype)


class SimilarityPreserving(LayerLoss):
    """`similarity_preserving` between a layer of the student and one of the teacher. Usual weight: 3000.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        gather: Whether each process compares the rows of all processes.

    Source: as `similarity_preserving`.
    """

    def __init__(self, student: str = "embedding", teacher: str = "embedding", gather: bool = False) -> None:
        super().__init__([student], [teacher], gather)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        ((s, t),) = self.pairs(student, teacher, batch)
        return similarity_preserving(s, t)


def _similarities(x: Tensor) -> Tensor:
    return F.normalize(x @ x.T, dim=1, eps=torch.finfo(x.dtype).tiny)
