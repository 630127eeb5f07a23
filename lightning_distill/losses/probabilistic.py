"""Probabilistic knowledge transfer: which samples are likely neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import LayerLoss
from lightning_distill.structures import Batch, ModelOutput


def probabilistic_transfer(student: Tensor, teacher: Tensor, epsilon: float = 1e-7) -> Tensor:
    """(1 / B^2) * sum_ij q_t[i, j] * log((q_t[i, j] + epsilon) / (q_s[i, j] + epsilon)), in nats.

    q is (cos(x_i, x_j) + 1) / 2, divided by the sum of its row.

    Args:
        student: "batch ...", flattened to vectors.
        teacher: "batch ...", of any other width; no gradient flows into it.
        epsilon: Keeps the logarithm finite.

    Returns:
        0-d tensor; 0 when the neighbourhoods are the same.

    Source: Passalis and Tefas, Probabilistic Knowledge Transfer (1803.10837), equations 6, 7 and 10, with the
    authors' mean over B^2. A vector that is 0 has cosine 0 with all.

    >>> x = torch.rand(4, 8)
    >>> probabilistic_transfer(x, 3 * x).abs().item() < 1e-6
    True
    """
    if not len(student):
        return student.sum()
    wide = torch.promote_types(student.dtype, torch.float32)
    s, t = (_neighbours(x.flatten(1).to(wide)) for x in (student, teacher.detach()))
    with torch.no_grad():
        entropy = torch.dot(t.view(-1), (t + epsilon).log().view(-1))
    value = entropy - torch.dot(t.view(-1), (s + epsilon).log().view(-1))
    return (value / len(student) ** 2).to(student.dtype)


class ProbabilisticTransfer(LayerLoss):
    """`probabilistic_transfer` between a layer of the student and one of the teacher. Usual weight: 30000.

    Args:
        student: Name of the student's layer, see `ModelOutput.at`.
        teacher: Name of the teacher's.
        epsilon: Above 0.
        gather: Whether each process compares the rows of all processes.

    Raises:
        ConfigError: If epsilon is not positive.

    Source: as `probabilistic_transfer`.
    """

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        epsilon: float = 1e-7,
        gather: bool = False,
    ) -> None:
        super().__init__([student], [teacher], gather)
        if not epsilon > 0:
            raise ConfigError(
                where="ProbabilisticTransfer.epsilon", found=epsilon, expected="above 0", fix="try 1e-7"
            )
        self.epsilon = epsilon

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats."""
        ((s, t),) = self.pairs(student, teacher, batch)
        return probabilistic_transfer(s, t, self.epsilon)


def _neighbours(x: Tensor) -> Tensor:
    x = F.normalize(x, dim=1, eps=torch.finfo(x.dtype).tiny)
    near = (x @ x.T + 1) / 2
    return near / near.sum(dim=1, keepdim=True)
