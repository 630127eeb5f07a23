"""Contrastive distillation of embeddings across modalities, as CLIP aligns image and text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import ProjectedLoss
from lightning_distill.structures import Batch, ModelOutput


def contrastive_alignment(
    student: Tensor, teacher: Tensor, sample_id: Tensor, temperature: Tensor | float = 0.07
) -> Tensor:
    """(1/2) * [CE of rows + CE of columns] of cos(s_i, t_j) / T, in nats.

    Each student's embedding is to find its partner among the teacher's of the batch, and the other way round.

    Args:
        student: s, "batch dim".
        teacher: t, "batch dim".
        sample_id: int64 "batch". Rows with the same id are copies of a sample: none is a negative of another.
        temperature: T > 0.

    Returns:
        0-d tensor >= 0; 0 for one row.

    Source: Radford et al., CLIP (2103.00020), section 2.3 and figure 3, with copies left out; for
    distillation, in place of the memory of Tian et al. (1910.10699), section 3.

    >>> x = torch.eye(3)
    >>> contrastive_alignment(x, x, torch.arange(3), temperature=0.01).item() < 1e-6
    True
    """
    if not len(student):
        return student.sum() + teacher.sum()
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (F.normalize(x.to(wide), dim=1) for x in (student, teacher))
    copies = (sample_id[:, None] == sample_id).fill_diagonal_(False)
    scores = ((s / temperature) @ t.T).masked_fill_(copies, -math.inf)
    own = torch.arange(len(s), device=s.device)
    value = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    return value.to(student.dtype)


class CrossModalContrastive(ProjectedLoss):
    """`contrastive_alignment` of trained projections of a student's and a teacher's layer.

    For teacher and student of different modalities: `student="features.audio", teacher="features.image"`.
    The usual weight is 1.

    Args:
        student: Name of the student's layer, a vector a sample; see `ModelOutput.at`.
        teacher: Name of the teacher's.
        dim: Width of the projections.
        temperature: T at the start; it is learned, as 1 / T = exp(a), and kept above 0.01.
        gather: Whether each process compares the rows of all processes.

    Raises:
        ConfigError: If a setting is out of range; in the dry run, if a layer is not a vector.

    Source: as `contrastive_alignment`; the learned temperature is CLIP's.
    """

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        dim: int = 128,
        temperature: float = 0.07,
        gather: bool = False,
    ) -> None:
        super().__init__(student, teacher, dim, gather)
        if dim < 1 or not 0.01 <= temperature < math.inf:
            raise ConfigError(
                where="CrossModalContrastive",
                found=f"dim {dim}, temperature {temperature}",
                expected="a width of 1 or more and a temperature of 0.01 or more",
                fix="try 128 and 0.07",
            )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        temperature = (-self.log_scale).exp().clamp(min=0.01)
        return contrastive_alignment(*self.projected(student, teacher, batch), temperature)
