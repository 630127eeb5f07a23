"""What is measured of each domain, and one score over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric, MetricCollection

from lightning_distill.batch_rows import some_samples
from lightning_distill.stage_metrics import StageMetrics, labelled_share, seen_anywhere
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Task
from lightning_distill.terms import TASK

SCORE = "score"
"""Name of the pooled score."""


class DomainMetrics(StageMetrics):
    """The task's metrics and loss of each domain, `<stage>/<domain>/<metric>`, and `<stage>/score`.

    The score is the plain mean, over the domains that have labels, of the metric the task is monitored by: a
    small domain counts as much as a large one. A domain without labels has no metric and no part in it.

    Args:
        task: Whose metrics they are.
        num_outputs: Width of the logits.
        taught: Whether agreement with a teacher is measured too.
        domains: Names, in the order of `Batch.domain`.
    """

    def __init__(self, task: Task, num_outputs: int, taught: bool, domains: Sequence[str]) -> None:
        places = [f"{stage}/{domain}" for stage in ("val", "test") for domain in domains]
        super().__init__(task, num_outputs, taught, places)
        self._task, self._domains = task, tuple(domains)

    def update_domains(
        self, stage: str, student: ModelOutput, teacher: ModelOutput | None, batch: Batch
    ) -> None:
        """Count a batch's rows, each for its domain.

        Args:
            stage: "val" or "test".
            student: Its answer.
            teacher: Its answer, if there is one.
            batch: What both answered.
        """
        losses, shares = {}, {}
        for index, domain in enumerate(self._domains):
            rows, place = (batch["domain"] == index).nonzero()[:, 0], f"{stage}/{domain}"
            some, answer = some_samples(batch, rows), student.rows(rows)
            if len(rows):
                self.update_at(place, answer, [] if teacher is None else [teacher.rows(rows)], some)
            name = f"{place}/{TASK}"
            losses[name] = self._task.loss(answer.logits, some["target"], some.get("weight"))
            shares[name] = labelled_share(some)
        self._means.add(losses, shares)

    def log(self, module: LightningModule, stage: str) -> None:
        """Log everything of a stage, and the score."""
        super().log(module, stage)
        name = self._task.monitor[0]
        places = [f"{stage}/{domain}" for domain in self._domains]
        metrics = [self._metric(place, name) for place in places]
        known = seen_anywhere(module, [m is not None and m.update_called for m in metrics])
        values = [m.compute() for m, there in zip(metrics, known, strict=True) if there and m is not None]
        if values:
            score = torch.stack([v.float() for v in values]).mean()
            module.log(f"{stage}/{SCORE}", score, prog_bar=True, sync_dist=True)

    def _metric(self, place: str, name: str) -> Metric | None:
        collection: MetricCollection = self[place]  # type: ignore[assignment]
        return dict(collection.items(keep_base=True)).get(name)
