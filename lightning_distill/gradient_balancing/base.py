"""The contract of what balances gradients: between modalities, and between the terms of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.gradients import Gradients
from lightning_distill.history import History
from lightning_distill.ranks import alone


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
    trained on. After backward, and before the clip rule, `balance` may edit the gradients in place; one that
    only does that returns the terms as they are. What it learns or remembers are parameters and buffers, so
    that they reach optimizer and checkpoint.
    """

    per_term_gradients: ClassVar[bool] = False
    """Whether `balance` wants the gradient of each term. Costs one backward pass a term and step."""
    reads_validation: ClassVar[bool] = False
    """Whether `terms` is to be called in validation too (then `self.training` is False)."""

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """What is trained on.

        Args:
            weighted: Name -> weighted term, 0-d; "task" first.
            view: Of this batch.

        Returns:
            Name -> 0-d tensor; these are added up. Own terms are called "unimodal/<modality>" or alike.
        """

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

    def begin_validation(self) -> None:
        """Before every validation of a training; one that was broken off is done again from its beginning."""

    def end_epoch(self, average: Callable[[Tensor], Tensor]) -> None:
        """After every training epoch and its validation.

        Args:
            average: Averages a tensor over all processes, which must all call it.
        """


class Memory(History):
    """Tensors by name, made when they are first asked for: which modalities there are is known late.

    They are buffers, and so reach the checkpoint; loading makes those that are not there yet. They are
    float32, whatever the model is.

    >>> import torch
    >>> first, second = Memory(), Memory()
    >>> first.at("image", torch.zeros(3)).add_(1.0).tolist()
    [1.0, 1.0, 1.0]
    >>> second.load_state_dict(first.state_dict())
    <All keys matched successfully>
    """

    def __init__(self) -> None:
        super().__init__()

    def at(self, name: str, like: Tensor) -> Tensor:
        """The tensor of that name, to be changed in place.

        Args:
            name: Without a dot.
            like: Of its shape and on its device; it is zeros at first.

        Raises:
            ConfigError: If it has another shape, as in a checkpoint of another student.
        """
        if name not in self._buffers:
            self.register_buffer(name, torch.zeros_like(like, dtype=torch.float32, requires_grad=False))
        found = self._buffers[name]
        assert found is not None
        if found.shape != like.shape:
            raise ConfigError(
                where=f"what a gradient balancer remembers of {name!r}",
                found=f"a tensor of shape {tuple(found.shape)}",
                expected=f"the shape {tuple(like.shape)}",
                fix="start without the checkpoint, or train the student it is of",
            )
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and "." not in name and name not in self._buffers:
                self.register_buffer(name, torch.zeros_like(value))
        super()._load_from_state_dict(state_dict, prefix, *others)


def two_or_more(view: StudentView, where: str) -> tuple[str, ...]:
    """The modalities.

    Args:
        view: Of a batch.
        where: Name of the balancer.

    Raises:
        ConfigError: If there is only one.
    """
    if len(view.features) < 2:
        raise ConfigError(
            where=where,
            found=f"a student of {', '.join(view.features) or 'no modality'}",
            expected="two modalities or more, to balance them",
            fix="leave the gradient balancer out, or add an encoder",
        )
    return tuple(view.features)


def one_label(view: StudentView, where: str) -> None:
    """See that each sample has one class.

    Args:
        view: Of a batch.
        where: Name of the balancer.

    Raises:
        ConfigError: If the target is of another kind.
    """
    if view.target.ndim != 1 or view.target.is_floating_point():
        raise ConfigError(
            where=where,
            found="targets that are numbers, or any number of classes a sample",
            expected="one class a sample",
            fix="take MMPareto, GBlending or PCGrad, which suit any task",
        )


def truth_probability(logits: Tensor, target: Tensor) -> Tensor:
    """softmax(z)_y of each sample, "batch", at least in float32; meaningless where there is no label.

    Args:
        logits: z, "batch classes".
        target: y, int64 "batch".
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).softmax(dim=1).gather(1, target.clamp(min=0)[:, None])[:, 0]


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, which must all call it; the values themselves in a single one.

    Args:
        values: Of a shape that is the same on all processes; it is not changed.
    """
    if alone():
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def inner_products(gradients: Gradients, sets: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """<a, b> of every two sets of gradients, each taken as one long vector.

    Args:
        gradients: Says which tensors are split over processes.
        sets: Gradients beside `gradients.local`; None counts as 0.

    Returns:
        "sets sets", float32 or float64, on the device of the first gradient.
    """
    count, rows = len(sets), []
    wide = max(
        (torch.promote_types(torch.float32, g.dtype) for g in gradients.local), key=lambda t: t.itemsize
    )
    for tensors in zip(*sets, strict=True):
        flat = [None if t is None else t.reshape(-1).to(wide) for t in tensors]
        zero = torch.zeros((), dtype=wide, device=gradients.device)
        row = {}
        for i in range(count):
            for j in range(i + 1):
                a, b = flat[i], flat[j]
                row[i, j] = zero if a is None or b is None else torch.dot(a, b).to(gradients.device)
        rows.append(torch.stack([row[max(i, j), min(i, j)] for i in range(count) for j in range(count)]))
    return gradients.total(torch.stack(rows)).sum(dim=0).view(count, count)
