"""PMR: the modality that is behind is drawn to the prototypes of its classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing.base import (
    GradientBalancer,
    Memory,
    StudentView,
    one_label,
    summed,
    two_or_more,
)
from lightning_distill.gradients import Gradients

_OUT_OF_REACH: Final = 1e9
"""Distance to a class without a prototype: its probability is 0."""


def stimulation(scores: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """clip(max(s) / s_m - 1, 0, 1) and clip(s_m / min(s) - 1, 0, 1): how far behind and ahead each one is.

    For two modalities these are the paper's beta and gamma, and gamma and beta.

    Args:
        scores: s, "modalities", in (0, 1].
        there: bool "modalities"; for one that is not there both are 0, and it is not among the others.

    Returns:
        Two of "modalities".

    Source: Fan et al., PMR (2211.07089), equations 8 and 11. The paper has two modalities.

    >>> behind, ahead = stimulation(torch.tensor([0.6, 0.4]), torch.tensor([True, True]))
    >>> behind.tolist(), ahead.tolist()
    ([0.0, 0.5...], [0.5..., 0.0])
    """
    scores = scores.clamp(min=torch.finfo(scores.dtype).tiny)
    best = torch.where(there, scores, 0.0).max()
    worst = torch.where(there, scores, math.inf).min()
    behind, ahead = best / scores - 1, scores / worst - 1
    return torch.where(there, behind.clamp(0, 1), 0.0), torch.where(there, ahead.clamp(0, 1), 0.0)


class PMR(GradientBalancer):
    """loss = terms + sum_m (alpha * behind_m * PCE_m - mu * ahead_m * H_m), see `stimulation`.

    With d the Euclidean distance of a modality's feature to the prototype of each class, p = softmax(-d),
    PCE_m is the mean of -log p_y, H_m that of the entropy of p, and s_m the mean of p_y over the samples, of
    all processes, that have m. The entropy term is there in the first epochs only. After each epoch,

        prototype <- momentum * prototype + (1 - momentum) * mean feature of the class in this epoch

    so the first epoch, which has no prototypes, is trained as without. Classes not seen yet count nowhere.

    Args:
        alpha: Weight of the cross-entropy terms, 0 or more.
        mu: Weight of the entropy terms, 0 or more; the paper takes 0.01 or 0.001.
        momentum: In [0, 1).
        entropy_epochs: How many epochs have the entropy terms.

    Raises:
        ConfigError: If a setting is out of range; at the first batch, if there is only one modality, or a
            sample has not just one class.

    Source: Fan et al., PMR: Prototypical Modal Rebalance for Multimodal Learning (2211.07089), equations 6 to
    13. The paper finds prototypes by a pass over a tenth of the data before each epoch, the first too; here
    they are those of the epoch before, at no cost. In the authors' code the weights behind_m are 0 or 1, and
    there is no entropy; momentum 0.2 is theirs.
    """

    def __init__(
        self, alpha: float = 1.0, mu: float = 0.01, momentum: float = 0.2, entropy_epochs: int = 10
    ) -> None:
        super().__init__()
        if not (0 <= alpha < math.inf and 0 <= mu < math.inf):
            raise ConfigError(
                where="PMR.alpha, mu",
                found=(alpha, mu),
                expected="numbers of 0 or more",
                fix="try 1.0 and 0.01",
            )
        if not 0 <= momentum < 1:
            raise ConfigError(
                where="PMR.momentum", found=momentum, expected="0 or more and below 1", fix="try 0.2"
            )
        if entropy_epochs < 0:
            raise ConfigError(
                where="PMR.entropy_epochs", found=entropy_epochs, expected="0 or more", fix="try 10"
            )
        self.alpha, self.mu, self.momentum, self.entropy_epochs = alpha, mu, momentum, entropy_epochs
        self.prototypes, self.known, self.sums = Memory(), Memory(), Memory()
        self._told: dict[str, Tensor] = {}

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms, "prototype/<modality>" for each, and "entropy/<modality>" in the first epochs."""
        modalities = two_or_more(view, "PMR")
        one_label(view, "PMR")
        target, found, means = view.target.clamp(min=0), [], {}
        for m in modalities:
            logits, known = self._similarities(view.features[m], m, view.logits.shape[1])
            log_p = logits.log_softmax(dim=1)
            there = view.present[m]
            labelled = there & view.labelled & known[target]
            own = log_p.gather(1, target[:, None])[:, 0]
            entropy = -(log_p.exp() * log_p).sum(dim=1)
            means[m] = (_mean(-own, labelled), _mean(entropy, there))
            score = torch.where(labelled, own.detach().exp(), 0.0).sum()
            found.append(torch.stack([score, labelled.sum().to(score.dtype)]))
            self._note(m, view)
        sums, counts = summed(torch.stack(found)).unbind(dim=1)
        scores = sums / counts.clamp(min=1)
        behind, ahead = stimulation(scores, counts > 0)
        self._told = {f"score/{m}": scores[i] for i, m in enumerate(modalities)}
        self._told |= {f"behind/{m}": behind[i] for i, m in enumerate(modalities)}
        own_terms = {f"prototype/{m}": self.alpha * behind[i] * means[m][0] for i, m in enumerate(modalities)}
        if view.epoch < self.entropy_epochs:
            own_terms |= {f"entropy/{m}": -self.mu * ahead[i] * means[m][1] for i, m in enumerate(modalities)}
        return {**weighted, **own_terms}

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Edit nothing.

        Returns:
            Of the step's last batch, "score/<modality>": s, 0 before there are prototypes;
            "behind/<modality>": behind_m.
        """
        told, self._told = self._told, {}
        return told

    def _similarities(self, feature: Tensor, modality: str, classes: int) -> tuple[Tensor, Tensor]:
        """-d, "batch classes", and which classes have a prototype."""
        z = feature.float()
        prototypes = self.prototypes.at(modality, z.new_zeros(classes, z.shape[1]))
        known = self.known.at(modality, z.new_zeros(classes)) > 0
        # A copy: the epoch's end changes the buffer in place, when a late backward pass may still read it.
        distance = torch.cdist(z, prototypes.clone(), compute_mode="donot_use_mm_for_euclid_dist")
        return (-distance).masked_fill(~known, -_OUT_OF_REACH), known

    @torch.no_grad()
    def _note(self, modality: str, view: StudentView) -> None:
        """Add this batch, of all processes, to the sums of the epoch."""
        z, classes = view.features[modality].detach().float(), view.logits.shape[1]
        rows = view.present[modality] & view.labelled & z.isfinite().all(dim=1)
        # The last column counts.
        kept = torch.where(rows[:, None], torch.cat([z, torch.ones_like(z[:, :1])], dim=1), 0.0)
        found = kept.new_zeros(classes, kept.shape[1]).index_add_(0, view.target.clamp(min=0), kept)
        self.sums.at(modality, found).add_(summed(found))

    @torch.no_grad()
    def end_epoch(self, average: Callable[[Tensor], Tensor]) -> None:
        """Move the prototypes to this epoch's mean features."""
        for name, sums in self.sums.named_buffers():
            total, seen = sums[:, :-1], sums[:, -1:]
            prototypes, known = self.prototypes.at(name, total), self.known.at(name, seen[:, 0])
            means = total / seen.clamp(min=1)
            moved = torch.where(known[:, None] > 0, torch.lerp(means, prototypes, self.momentum), means)
            prototypes.copy_(torch.where(seen > 0, moved, prototypes))
            known.copy_((known > 0) | (seen[:, 0] > 0))
            sums.zero_()

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"alpha={self.alpha}, mu={self.mu}, momentum={self.momentum}, "
            f"entropy_epochs={self.entropy_epochs}"
        )


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """Over these rows; 0 where there are none."""
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp(min=1)
