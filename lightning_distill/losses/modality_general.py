"""Distilling only what the student's modality can express."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.losses.base import AdaptedLoss, Shapes
from lightning_distill.structures import Batch, ModelOutput


def modality_general_saliency(
    forward: Callable[[Tensor], Tensor],
    features: Tensor,
    repeats: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """For each feature channel, how far the output moves when the channel is permuted over the samples.

    saliency_d = mean over repeats and samples of |f(x) - f(x with channel d permuted)|_2, divided by the
    largest. It is general if f was trained to agree with a model of the other modality: what only one
    modality knows does not move such a model.

    Args:
        forward: f, from features "samples dim" to outputs "samples out"; called without gradient.
        features: x, "samples dim".
        repeats: Permutations a channel.
        generator: Of the permutations.

    Returns:
        "dim", from 0 to 1.

    Source: Xue et al., The Modality Focusing Hypothesis (2206.06487), algorithm 1.

    >>> weight = torch.tensor([[2.0], [0.0], [1.0]])
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 3, generator=rng)
    >>> [round(v, 1) for v in modality_general_saliency(lambda x: x @ weight, x, 5, rng).tolist()]
    [1.0, 0.0, 0.5]
    """
    with torch.no_grad():
        base, saliency = forward(features), features.new_zeros(features.shape[1])
        for channel in range(features.shape[1]):
            for _ in range(repeats):
                order = torch.randperm(len(features), generator=generator).to(features.device)
                moved = features.clone()
                moved[:, channel] = features[order, channel]
                saliency[channel] += (forward(moved) - base).flatten(1).norm(dim=1).mean()
    return saliency / saliency.max().clamp(min=torch.finfo(saliency.dtype).tiny)


def masked_hint(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """sum_d w_d * mean_i (s_id - t_id)^2 / sum_d w_d: channels of weight 0 are not followed.

    Args:
        student: s, "batch dim", already brought to the teacher's width.
        teacher: t, "batch dim"; no gradient flows into it.
        weight: w, "dim", 0 or more.

    Returns:
        0-d tensor >= 0.

    Source: 2206.06487, section 4, where the other channels are set to zero before distillation.

    >>> masked_hint(torch.zeros(1, 2), torch.tensor([[1.0, 9.0]]), torch.tensor([1.0, 0.0])).item()
    1.0
    """
    if not len(student):
        return student.sum()
    distance = (student - teacher.detach()).square().mean(dim=0)
    return (distance * weight).sum() / weight.sum()


class ModalityGeneralHint(AdaptedLoss):
    """`masked_hint` between a vector of the teacher and a linear map of one of the student.

    The usual weight is that of a hint, 100.

    Args:
        student: Name of the student's layer, a vector a sample; see `ModelOutput.at`.
        teacher: Name of the teacher's.
        saliency: One number a channel of the teacher's layer, such as `modality_general_saliency` gives;
            empty follows all channels alike.
        kept: Share of the channels that are followed, those with the largest saliency.

    Raises:
        ConfigError: If the share is outside (0, 1]; in the dry run, if layers are no vectors or the saliency
            has another width than the teacher's layer.

    Source: as `masked_hint`.
    """

    weight: Tensor

    def __init__(
        self,
        student: str = "embedding",
        teacher: str = "embedding",
        saliency: Sequence[float] = (),
        kept: float = 0.5,
    ) -> None:
        super().__init__([student], [teacher])
        if not 0 < kept <= 1:
            raise ConfigError(
                where="ModalityGeneralHint.kept", found=kept, expected="above 0, at most 1", fix="try 0.5"
            )
        self.saliency, self.kept = tuple(saliency), kept

    def build(self, student: Shapes, teacher: Shapes) -> None:
        """A linear map, and the weights of the channels."""
        (s,), (t,) = student, teacher
        if len(s) != 1 or len(t) != 1 or len(self.saliency) not in (0, t[0]):
            raise ConfigError(
                where="ModalityGeneralHint",
                found=f"layers of shape {s} and {t}, and a saliency of {len(self.saliency)} channels",
                expected="one vector a sample on both sides, and a number for each of the teacher's channels",
                fix="name pooled layers, and compute the saliency on the same layer",
            )
        self.regressor = nn.Linear(s[0], t[0])
        values = torch.tensor(self.saliency or [1.0] * t[0])
        count = max(1, round(self.kept * t[0])) if self.saliency else t[0]
        weight = torch.zeros(t[0]).index_fill_(0, values.topk(count).indices, 1.0)
        self.register_buffer("weight", weight)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        """0-d tensor."""
        ((s, t),) = self.pairs(student, teacher, batch)
        return masked_hint(self.regressor(s), t, self.weight)
