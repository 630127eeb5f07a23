"""Contrastive representation distillation against a memory of earlier samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import ProjectedLoss
from lightning_distill.structures import Batch, ModelOutput


def contrastive_representation(positive: Tensor, negative: Tensor, allowed: Tensor, ratio: float) -> Tensor:
    """-mean_i [log h(p_i) + sum_k log(1 - h(n_ik))], where h(g) = e^g / (e^g + ratio), in nats.

    Args:
        positive: p, "batch": cosine of a sample's student and teacher embedding, over the temperature.
        negative: n, "batch negatives": the same, with the teacher's embedding of other samples.
        allowed: bool "batch negatives", False where the negative is the sample itself, or there is none.
        ratio: N / M: negatives drawn, over the number of samples they are drawn from.

    Returns:
        0-d tensor >= 0.

    Source: Tian et al., Contrastive Representation Distillation (1910.10699), equations 9, 10 and 19.

    >>> p, n = torch.tensor([0.0]), torch.zeros(1, 1)
    >>> round(contrastive_representation(p, n, torch.ones(1, 1, dtype=torch.bool), 1.0).item(), 4)
    1.3863
    """
    if not len(positive):
        return positive.sum() + negative.sum()
    # log h = -softplus(log ratio - g), log(1 - h) = -softplus(g - log ratio)
    shift = math.log(ratio)
    others = F.softplus(negative - shift).masked_fill(~allowed, 0.0).sum(dim=1)
    return (F.softplus(shift - positive) + others).mean()


class ContrastiveRepresentation(ProjectedLoss):
    """`contrastive_representation` of trained projections, against a memory of the teacher's last answers.

    The memory holds the last `memory` teacher embeddings and the ids of their samples; all of it serves every
    row of a batch as negatives, in one matrix product. No index of the data set is needed. A row's own sample
    is never its negative. The usual weight is 0.8.

    Args:
        student: Name of the student's layer, a vector a sample; see `ModelOutput.at`.
        teacher: Name of the teacher's.
        dim: Width of the projections.
        memory: Negatives kept; memory * dim numbers.
        samples: M, samples in the training data.
        temperature: T > 0.
        gather: Whether each process compares, and remembers, the rows of all processes.

    Raises:
        ConfigError: If a setting is out of range; in the dry run, if a layer is not a vector.

    Source: as `contrastive_representation`. The authors keep both sides' embeddings of every sample and draw
    16,384 negatives for each row; shared negatives are another estimator of the same expectation, with the
    same mean and more correlation between rows, in one matrix product. They also contrast the other way
    round, and scale h by a constant found from the first batch, which makes the loss depend on it.
    """

    bank: Tensor
    bank_id: Tensor
    filled: Tensor

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        dim: int = 128,
        memory: int = 16384,
        samples: int = 50000,
        temperature: float = 0.07,
        gather: bool = False,
    ) -> None:
        super().__init__(student, teacher, dim, gather)
        if min(dim, memory, samples) < 1 or not 0 < temperature < math.inf:
            raise ConfigError(
                where="ContrastiveRepresentation",
                found=f"dim {dim}, memory {memory}, samples {samples}, temperature {temperature}",
                expected="numbers above 0",
                fix="try 128, 16384, the number of training samples and 0.07",
            )
        self.ratio, self.temperature = memory / samples, temperature
        self.register_buffer("bank", torch.zeros(memory, dim))
        self.register_buffer("bank_id", torch.zeros(memory, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor, nats. In training, the batch is remembered afterwards."""
        s, t, ids = self.projected(student, teacher, batch)
        s, t = F.normalize(s, dim=1), F.normalize(t, dim=1)
        # The batch's other rows are negatives too: without them the first steps would have none. It is a copy
        # of the memory, which changes before the backward pass.
        others = torch.cat([self.bank.to(t), t])
        other_ids = torch.cat([self.bank_id, ids])
        there = torch.arange(len(others), device=s.device)
        kept = (there < self.filled) | (there >= len(self.bank))
        allowed = (other_ids[None] != ids[:, None]) & kept
        positive, negative = (s * t).sum(dim=1) / self.temperature, s @ others.T / self.temperature
        value = contrastive_representation(positive, negative, allowed, self.ratio)
        if self.training:
            self._remember(t.detach(), ids)
        return value

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, ids: Tensor) -> None:
        size = len(self.bank)
        embeddings, ids = embeddings[-size:], ids[-size:]
        # The newest are at the front, so that what is filled is a prefix.
        self.bank.copy_(torch.cat([embeddings.to(self.bank), self.bank[: size - len(ids)]]))
        self.bank_id.copy_(torch.cat([ids, self.bank_id[: size - len(ids)]]))
        self.filled.add_(len(ids)).clamp_(max=size)
