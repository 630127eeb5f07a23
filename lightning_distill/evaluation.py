"""Evaluation of a model on every subset of its modalities."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_distill.batch_rows import only_samples
from lightning_distill.data import MultimodalDataModule
from lightning_distill.evaluation_checks import can_be_evaluated
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, labelled_rows
from lightning_distill.tasks import Task


@dataclass(frozen=True)
class SubsetResult:
    """What a model is worth with some of its modalities.

    Attributes:
        modalities: What it was given.
        samples: How many samples have all of these and a label.
        metrics: Name -> value over these samples; empty where there are none.
    """

    modalities: tuple[str, ...]
    samples: int
    metrics: dict[str, float]


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every non-empty subset, all modalities first, then by size.

    >>> subsets(("image", "text"))
    [('image', 'text'), ('image',), ('text',)]
    """
    return [s for size in range(len(modalities), 0, -1) for s in combinations(modalities, size)]


def evaluate_subsets(
    model: MultimodalModel,
    data: MultimodalDataModule,
    task: Task,
    split: str = "test",
    trainer: Trainer | None = None,
) -> list[SubsetResult]:
    """The task's metrics for every non-empty subset of the model's modalities, in one pass over the data.

    A subset is evaluated on the labelled samples that have all its modalities; the model is told that the
    others are absent. So the samples of two subsets may differ: compare `SubsetResult.samples`.

    Args:
        model: Reads what the data's `processors` make, as a student does.
        data: Has at least the model's modalities.
        task: Says which metrics.
        split: "val" or "test".
        trainer: Where it runs; None is one device, chosen by Lightning.

    Returns:
        All modalities first, then by size.

    Raises:
        ConfigError: If model, data and task do not fit, or there is no such split.
    """
    can_be_evaluated(model, data, task, split, "evaluate_subsets")
    if trainer is None:
        trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    evaluation = _Evaluation(model, task)
    run = trainer.validate if split == "val" else trainer.test
    run(evaluation, datamodule=data, verbose=False)
    return evaluation.results


class _Evaluation(LightningModule):
    """Runs the model once for each subset of each batch, and holds metrics for each subset."""

    def __init__(self, model: MultimodalModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.subsets = subsets(model.modalities)
        self.metrics = nn.ModuleList([task.metrics(model.num_classes) for _ in self.subsets])
        self.counts = [0] * len(self.subsets)
        self.results: list[SubsetResult] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        labelled = labelled_rows(batch["target"])
        for number, subset in enumerate(self.subsets):
            complete = torch.stack([labelled, *(batch["present"][m] for m in subset)]).all(dim=0)
            rows = complete.nonzero()[:, 0]
            if not len(rows):
                continue
            logits = self.model(_restricted(batch, rows, self.model.modalities, subset)).logits
            self.counts[number] += len(rows)
            for metric in self._metrics_of(number).values():
                metric.update(logits, batch["target"][rows])

    def on_test_epoch_end(self) -> None:
        counts = torch.tensor(self.counts, device=self.device)
        # Every process must know that a subset has samples: computing a metric is a collective operation.
        counts = cast(Tensor, self.trainer.strategy.reduce(counts, reduce_op="sum"))
        for number, (subset, samples) in enumerate(zip(self.subsets, counts.tolist(), strict=True)):
            metrics = self._metrics_of(number) if samples else {}
            values = {name: float(metric.compute()) for name, metric in metrics.items()}
            self.results.append(SubsetResult(subset, samples, values))

    validation_step, on_validation_epoch_end = test_step, on_test_epoch_end

    def _metrics_of(self, number: int) -> dict[str, Metric]:
        """One by one: a collection forms groups at its first update, which not every process may see."""
        collection: MetricCollection = self.metrics[number]  # type: ignore[assignment]
        return dict(collection.items(keep_base=True))


def _restricted(batch: Batch, rows: Tensor, modalities: tuple[str, ...], subset: tuple[str, ...]) -> Batch:
    """Some samples, of which only the modalities of a subset are there."""
    some = only_samples(batch, rows, modalities)
    present = {m: there if m in subset else torch.zeros_like(there) for m, there in some["present"].items()}
    return {**some, "present": present}
