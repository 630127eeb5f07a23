"""The weighted sum that is trained on, wherever it is trained: in our module or in somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.balancing import TermBalancer
from lightning_distill.errors import ConfigError
from lightning_distill.losses import DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.schedules import Schedule
from lightning_distill.structures import Batch, ModelOutput, only_rows
from lightning_distill.tasks import Task

TASK = "task"
"""Name of the task's own loss among the weighted terms."""
UNIMODAL = "unimodal"
"""Name of the loss of the student's unimodal heads, where it has such."""


def own_terms(students: Iterable[MultimodalModel]) -> tuple[str, ...]:
    """Names of the terms that need no teacher."""
    return (TASK, UNIMODAL) if any(len(s.unimodal_heads) for s in students) else (TASK,)


def unimodal_loss(task: Task, output: ModelOutput, batch: Batch) -> Tensor:
    """Mean over modalities of the task's loss of a modality's own head, on the samples that have it; 0-d.

    Args:
        task: Its loss.
        output: With the answers of such heads.
        batch: What was answered.
    """
    target, weight = batch["target"], batch.get("weight")
    found = [task.loss(z, only_rows(target, output.present[m]), weight) for m, z in output.unimodal.items()]
    return torch.stack(found).mean()


def label_losses(task: Task, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
    """Unweighted values of what is learned from labels, "task" first; 0-d each.

    Args:
        task: Its loss.
        output: The student's.
        batch: What was answered.
    """
    losses = {TASK: task.loss(output.logits, batch["target"], batch.get("weight"))}
    if output.unimodal:
        losses[UNIMODAL] = unimodal_loss(task, output, batch)
    return losses


class WeightedTerms(nn.Module):
    """Distillation terms with their weights.

    Args:
        losses: Name -> term; the name is free, but for those of `own`.
        weights: Name -> weight, or how it changes; "task" is the task's own loss. 1 where not given.
        balancer: Makes what balances the terms from their names; None adds them up as they are.
        own: Names of the terms that need no teacher.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        weights: Mapping[str, float | Schedule],
        balancer: Callable[[tuple[str, ...]], TermBalancer] | None = None,
        own: tuple[str, ...] = (TASK,),
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(dict(losses))
        self.names = (*own, *losses)
        self.weights = {name: weights.get(name, 1.0) for name in self.names}
        self.balancer = None if balancer is None else balancer(self.names)
        self._made: tuple[tuple[Any, ...], Tensor] | None = None

    @property
    def layers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of what the terms read of the student and of the teacher, beside the logits."""
        student = dict.fromkeys(name for _, loss in self._typed() for name in loss.student_layers)
        teacher = dict.fromkeys(name for _, loss in self._typed() for name in loss.teacher_layers)
        return tuple(student), tuple(teacher)

    def adapt(self, student: ModelOutput, teacher: ModelOutput | None) -> None:
        """Build the adaptors for what a dry run has shown, and check that every layer is there.

        Raises:
            ConfigError: If a layer is missing, or shapes do not go together.
        """
        for name, loss in self._typed():
            try:
                theirs = () if teacher is None else _shapes(teacher, loss.teacher_layers)
                loss.adapt(_shapes(student, loss.student_layers), theirs)
            except ConfigError as error:
                where = f"term {name!r}, {error.where}"
                raise ConfigError(
                    where=where, found=error.found, expected=error.expected, fix=error.fix
                ) from error

    def begin_step(self, step: int, epoch: int) -> None:
        """Tell the terms where training is, see `DistillationLoss.begin_step`."""
        for _, loss in self._typed():
            loss.begin_step(step, epoch)

    def _typed(self) -> list[tuple[str, DistillationLoss]]:
        """Anything that can be called will do as a term; only these tell what they read."""
        return [(name, loss) for name, loss in self.losses.items() if isinstance(loss, DistillationLoss)]

    def raw(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> dict[str, Tensor]:
        """Each term's unweighted value.

        Evaluation on data that do not tell domains, such as a target's alone, leaves terms between them out.
        """
        told = self.training or "in_target_domain" in batch
        asked = {n: x for n, x in self.losses.items() if told or not getattr(x, "reads_domains", False)}
        return {name: loss(student, teacher, batch) for name, loss in asked.items()}

    def weights_at(self, step: int, epoch: int) -> dict[str, float]:
        """Each weight now."""
        return {name: w(step, epoch) if callable(w) else float(w) for name, w in self.weights.items()}

    def total(
        self,
        terms: Mapping[str, Tensor],
        weights: Mapping[str, float],
        trained: Iterable[nn.Parameter] | None = None,
    ) -> Tensor:
        """The weighted sum; a term of weight 0 is left out, so that it cannot add a NaN.

        Args:
            terms: Name -> raw value.
            weights: Name -> weight now.
            trained: The student's parameters, in training; None in evaluation.
        """
        counted = {name: value for name, value in terms.items() if weights[name]}
        if not counted:
            return nothing(terms)
        if self.balancer is None:
            values = torch.stack(list(counted.values()))
            return (values * self._factors(tuple(weights[name] for name in counted), values)).sum()
        weighted = self.weighted(terms, weights)
        if trained is None or not self.balancer.needs_gradients:
            return self.balancer(weighted)
        return self.balancer(weighted, gradient_norms(weighted, trained))

    def weighted(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Each term times its weight; a term of weight 0 is left out."""
        return {name: weights[name] * value for name, value in terms.items() if weights[name]}

    def _factors(self, weights: tuple[float, ...], values: Tensor) -> Tensor:
        """The weights as one tensor beside the values, at least float32; made again only when they change."""
        dtype = torch.promote_types(values.dtype, torch.float32)
        key = (weights, dtype, values.device)
        if self._made is None or self._made[0] != key:
            with torch.inference_mode(False):  # what evaluation makes, training uses
                made = torch.tensor(weights, dtype=dtype).to(values.device, non_blocking=True)
            self._made = (key, made)
        return self._made[1]


def nothing(terms: Mapping[str, Tensor]) -> Tensor:
    """A loss of 0 with a gradient of 0, whatever the terms are."""
    return 0.0 * torch.stack(list(terms.values())).nan_to_num().sum()


def gradient_norms(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Euclidean norm of each term's gradient, 0-d; the graph is kept.

    Args:
        terms: Name -> 0-d tensor.
        parameters: What the gradients are taken on.

    >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> gradient_norms({"half": (w**2).sum() / 2, "none": torch.zeros(())}, [w])
    {'half': tensor(5.), 'none': tensor(0.)}
    """
    trained = [p for p in parameters if p.requires_grad]
    norms: dict[str, Tensor] = {}
    for name, value in terms.items():
        norms[name] = value.new_zeros(()).detach()
        if value.requires_grad:
            grads: Any = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
            found = [g.detach().float().norm() for g in grads if g is not None]
            norms[name] = torch.stack(found).norm() if found else norms[name]
    return norms


def _shapes(output: ModelOutput, names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(output.at(name).shape[1:]) for name in names)
