"""What is measured in validation and test: means of the terms, the task's metrics, agreement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_distill.epoch_means import EpochMeans
from lightning_distill.ranks import gathered
from lightning_distill.structures import Batch, ModelOutput, labelled_rows
from lightning_distill.tasks import Task
from lightning_distill.terms import TASK, UNIMODAL


class StageMetrics(nn.ModuleDict):
    """Place -> metrics, where a place is "val", "test" or what lies under them, such as "val/peer".

    Args:
        task: Whose metrics they are.
        num_outputs: Width of the logits.
        taught: Whether agreement with somebody is measured too.
        places: Names.
    """

    def __init__(self, task: Task, num_outputs: int, taught: bool, places: Iterable[str]) -> None:
        metrics = task.metrics(num_outputs)
        if taught:
            metrics[task.agreement_name] = task.agreement(num_outputs)
        super().__init__({place: metrics.clone(prefix=f"{place}/") for place in places})
        self._agreement = task.agreement_name
        self._means = EpochMeans()

    def add(self, values: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch's values; losses on labels by their number, all else by the batch's size.

        Args:
            values: Full name -> mean over the batch, 0-d.
            batch: It tells the numbers.
        """
        size, share = len(batch["target"]), labelled_share(batch)
        self._means.add(
            values, {n: share if n.rpartition("/")[2] in (TASK, UNIMODAL) else size for n in values}
        )

    def update_at(
        self, place: str, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch
    ) -> None:
        """Update the task's metrics by what has a label, the agreement by everything.

        Args:
            place: One of the places.
            student: Its answer.
            teachers: Those it is to agree with.
            batch: What they answered.
        """
        metrics: MetricCollection = self[place]  # type: ignore[assignment]
        for teacher in teachers:
            metrics[self._agreement].update(student.logits, teacher.logits)
        labelled = labelled_rows(batch["target"])
        if bool(labelled.any()):
            logits, target = student.logits[labelled], batch["target"][labelled]
            for name, metric in metrics.items(keep_base=True):
                if name != self._agreement:
                    metric.update(logits, target)

    def forget_means(self) -> None:
        """Forget what an evaluation that was broken off has left."""
        self._means.take()

    def log(self, module: LightningModule, stage: str) -> None:
        """Log everything of a stage, once: a name costs about as much as a small batch.

        Args:
            module: In its hook at the end of the evaluation.
            stage: "val" or "test".
        """
        # What saw no label has no value. All processes must log the same names, also one without a batch.
        means, nothing = self._means.take(), (torch.zeros((), device=module.device), 0.0)
        means = {name: means.get(name, nothing) for name in named_anywhere(module, means)}
        there = seen_anywhere(module, [weight > 0 for _, weight in means.values()])
        for known, (name, (mean, weight)) in zip(there, means.items(), strict=True):
            if known:
                module.log(name, mean, batch_size=weight, sync_dist=True)  # type: ignore[arg-type]
        places = [place for place in self if place.partition("/")[0] == stage]
        found = {f"{p}/{name}": m for p in places for name, m in self[p].items(keep_base=True)}  # type: ignore[operator]
        there = seen_anywhere(module, [m.update_called for m in found.values()])
        module.log_dict({name: m for known, (name, m) in zip(there, found.items(), strict=True) if known})


def labelled_share(batch: Batch) -> float:
    """Sum of the weights of the samples that have a label."""
    labelled = labelled_rows(batch["target"])
    # A float on every process: where some are whole numbers, they do not add up.
    return float((labelled * batch["weight"]).sum() if "weight" in batch else labelled.sum())


def seen_anywhere(module: LightningModule, seen: Sequence[bool]) -> list[bool]:
    """Whether each was seen on any process.

    Args:
        module: In a hook that all processes reach.
        seen: On this one; as many on each.
    """
    if module.trainer.world_size == 1 or not seen:
        return list(seen)
    counts = torch.tensor(seen, dtype=torch.int64, device=module.device)
    summed: Any = module.trainer.strategy.reduce(counts, reduce_op="sum")
    return [count > 0 for count in summed.tolist()]


def named_anywhere(module: LightningModule, names: Iterable[str]) -> list[str]:
    """The names on the first process that has any; all that have some have the same.

    Args:
        module: In a hook that all processes reach.
        names: On this one.
    """
    if module.trainer.world_size == 1:
        return list(names)
    said = gathered("\n".join(names), module.device)
    return next((text.split("\n") for text in said if text), [])


def under(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with names that begin with the place.

    >>> under("val", {"loss": 1})
    {'val/loss': 1}
    """
    return {f"{place}/{name}": value for name, value in values.items()}
