"""G-Blend: what overfits least, for what it gains, counts most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing.base import (
    GradientBalancer,
    Memory,
    StudentView,
    summed,
    two_or_more,
)
from lightning_distill.gradients import Gradients

_WHOLE: Final = "whole"
_SMALLEST_SQUARE: Final = 1e-8
"""Of the change in overfitting, nats^2: below it a measurement is taken for noise."""


def blend(
    train: Tensor, validation: Tensor, train_before: Tensor, validation_before: Tensor, old: Tensor
) -> Tensor:
    """w_k = (G_k / O_k^2) / sum_j (G_j / O_j^2).

    G_k is how far the validation loss fell, O_k how much the gap between it and the training loss grew:
    G = V_before - V, O = (V - T) - (V_before - T_before). A loss that did not fall has G = 0; O^2 is at least
    1e-8. Where no loss fell, the weights stay what they were.

    Args:
        train: T, "losses", nats.
        validation: V, "losses".
        train_before: "losses", at the measurement before.
        validation_before: "losses".
        old: "losses", the weights so far.

    Returns:
        "losses", of sum 1.

    Source: Wang et al., What Makes Training Multi-Modal Classification Networks Hard? (1905.12681), section
    3. Weights below 0, where a loss rises, are ours to exclude: they would undo what was learned.

    >>> train, before = torch.tensor([0.6, 0.7]), torch.tensor([1.0, 1.0])
    >>> blend(train, torch.tensor([1.0, 0.9]), before, torch.tensor([1.2, 1.1]), torch.ones(2) / 2)
    tensor([0.2000, 0.8000])
    """
    gain = (validation_before - validation).clamp(min=0)
    overfitting = (validation - train) - (validation_before - train_before)
    value = gain / overfitting.square().clamp(min=_SMALLEST_SQUARE)
    total = value.sum()
    return torch.where(total > 0, value / torch.where(total > 0, total, 1.0), old)


class GBlending(GradientBalancer):
    """loss = w_whole * sum of the terms + sum_m w_m * task(answer from m alone), w as in `blend`.

    Weights start equal. Task losses, of the whole and of each modality alone, are means over the labelled
    samples of an epoch, in training as it goes on, and in the last validation of the epoch. They are compared
    with those of `super_epoch` epochs before. Without validation the weights stay as they are. Costs, a
    modality, one pass through fusion and head in training and in validation.

    Args:
        super_epoch: Epochs between two measurements, 1 or more; the longer, the less noise in them.

    Raises:
        ConfigError: If `super_epoch` is not positive; at the first batch, if there is only one modality.

    Source: Wang et al. (1905.12681), section 3, online G-Blend. There each weight is measured on a copy of
    the model trained on that loss alone for a super-epoch; here all are measured in the one run, so that
    losses influence each other. Each modality has a head of its own there; here the answer from one modality
    is that of the student's head with the others absent. Distillation terms share the weight of the whole.
    """

    reads_validation = True
    epochs: Tensor

    def __init__(self, super_epoch: int = 1) -> None:
        super().__init__()
        if super_epoch < 1:
            raise ConfigError(
                where="GBlending.super_epoch", found=super_epoch, expected="1 or more", fix="try 5"
            )
        self.super_epoch = super_epoch
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.sums, self.last, self.weights = Memory(), Memory(), Memory()
        self.validated = Memory()
        """Of this process only: processes may have different numbers of batches in validation."""

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms times their weight, and "unimodal/<modality>" times its own."""
        modalities = two_or_more(view, "GBlending")
        rows = {_WHOLE: torch.stack(list(view.present.values())).any(dim=0)}
        rows |= {m: view.present[m] for m in modalities}
        losses = {
            name: view.task_loss(view.logits if name == _WHOLE else view.answer_from((name,)), there)
            for name, there in rows.items()
        }
        self._note(losses, {name: (there & view.labelled).sum() for name, there in rows.items()})
        # `_weights` makes new tensors: the epoch's end may come before a late backward pass.
        weights = dict(zip(losses, self._weights(list(losses), view.logits).unbind(), strict=True))
        whole = {name: weights[_WHOLE].to(term) * term for name, term in weighted.items()}
        return whole | {f"unimodal/{m}": weights[m].to(losses[m]) * losses[m] for m in modalities}

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Edit nothing.

        Returns:
            "weight/whole" and "weight/<modality>": w.
        """
        names = [name for name, _ in self.weights.named_buffers()]
        if not names:
            return {}
        return {f"weight/{n}": w for n, w in zip(names, self._weights(names, self.epochs), strict=True)}

    def _weights(self, names: Sequence[str], like: Tensor) -> Tensor:
        """Equal, as long as nothing was measured."""
        found = torch.stack([self.weights.at(name, like.new_zeros(())) for name in names])
        return torch.where(found.sum() > 0, found, 1 / len(names))

    @torch.no_grad()
    def _note(self, losses: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
        """Add to the sum of losses and the number of samples."""
        pairs = [torch.stack([losses[n].float() * counts[n], counts[n].float()]) for n in losses]
        values = torch.stack([torch.where(pair.isfinite().all(), pair, 0.0) for pair in pairs])
        if self.training:
            self.begin_validation()  # forget one in the middle of an epoch, or before all training
            for name, value in zip(losses, summed(values), strict=True):
                self.sums.at(name, value).add_(value)
            return
        for name, value in zip(losses, values, strict=True):
            self.validated.at(name, value).add_(value)

    def begin_validation(self) -> None:
        """Forget the last one."""
        for kept in self.validated.buffers():
            kept.zero_()

    @torch.no_grad()
    def end_epoch(self, average: Callable[[Tensor], Tensor]) -> None:
        """Weigh anew, after every `super_epoch` epochs."""
        names = [name for name, _ in self.sums.named_buffers()]
        if not names:
            return
        sums = [self.sums.at(n, self.epochs.new_zeros(2)) for n in names]
        pairs = [torch.stack([s, self.validated.at(n, s)]) for n, s in zip(names, sums, strict=True)]
        total, count = average(torch.stack(pairs)).unbind(dim=2)
        now = torch.cat([total / torch.where(count > 0, count, 1.0), torch.ones_like(count[:, :1])], dim=1)
        before = torch.stack([self.last.at(n, now[0]) for n in names])
        due = (count > 0).all() & (self.epochs % self.super_epoch == 0)
        old = self._weights(names, now)
        new = blend(now[:, 0], now[:, 1], before[:, 0], before[:, 1], old)
        new = torch.where(due & (before[:, 2] > 0).all(), new, old)
        for i, name in enumerate(names):
            self.weights.at(name, new[i]).copy_(new[i])
            self.last.at(name, now[i]).copy_(torch.where(due, now[i], before[i]))
            sums[i].zero_()
        self.epochs += 1
        self.begin_validation()

    def extra_repr(self) -> str:
        """Show the setting."""
        return f"super_epoch={self.super_epoch}"
