"""The contract of what balances gradients: between modalities, and between the terms of the loss."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_distill.gradients import Gradients


@dataclass(frozen=True)
class StudentView:
    """What a balancer may look at of one batch, all with gradient.

    Attributes:
        features: modality -> "batch dim_m", what the encoders give, zero where absent.
        present: modality -> bool "batch".
        logits: "batch classes", the student's answer.
        target: As in `Batch`.
        labelled: bool "batch".
        answer_from: The logits "batch classes" from these modalities alone, through the student's own fusion
            head, feature clip and task head. Rows that have none of them mean nothing and must be masked.
        task_loss: (logits, bool rows "batch") -> the task's loss over labelled ones among those rows, 0-d; 0
            where there are none.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        seed: Of the run; noise is a function of (seed, step), the same on all processes.
    """

    features: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    logits: Tensor
    target: Tensor
    labelled: Tensor
    answer_from: Callable[[Sequence[str]], Tensor]
    task_loss: Callable[[Tensor, Tensor], Tensor]
    step: int = 0
    epoch: int = 0
    seed: int = 0


class GradientBalancer(nn.Module, ABC):
    """Balances what modalities and terms do to the student's weights.

    In a training step, `terms` is called with the weighted terms of the loss; the sum of what it returns is
    trained on. After backward, and before the clip rule, `balance` may edit the gradients in place. A
    subclass implements one of the two, or both. What it learns or remembers are parameters and buffers, so
    that they reach optimizer and checkpoint.
    """

    per_term_gradients: ClassVar[bool] = False
    """Whether `balance` wants the gradient of each term. Costs one backward pass a term and step."""
    reads_validation: ClassVar[bool] = False
    """Whether `terms` is to be called in validation too (then `self.training` is False)."""

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """What is trained on.

        Args:
            weighted: Name -> weighted term, 0-d; "task" first.
            view: Of this batch.

        Returns:
            Name -> 0-d tensor; these are added up. Own terms are called "unimodal/<modality>" or alike.
        """
        return dict(weighted)

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Edit gradients in place, once an optimizer step, without gradient tracking.

        Args:
            gradients: Of all that is trained, averaged over processes and unscaled. Those of one encoder are
                `gradients.under("encoders.<modality>")`.
            by_term: Name, as `terms` gave it -> gradient of that term beside `gradients`, in the same order,
                averaged and accumulated alike; None where a term has no gradient on a parameter. Empty
                unless `per_term_gradients`.

        Returns:
            Name -> 0-d tensor to log.
        """
        return {}

    def end_epoch(self, average: Callable[[Tensor], Tensor]) -> None:
        """After every training epoch and its validation.

        Args:
            average: Averages a tensor over all processes, which must all call it.
        """
