"""What a model is worth as one modality at a time gets worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_distill import checks
from lightning_distill.batch_rows import only_samples
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import ConfigError
from lightning_distill.evaluation_checks import can_be_evaluated, data_have, split_is_known
from lightning_distill.model import MultimodalModel
from lightning_distill.robustness.absence import Absence
from lightning_distill.robustness.base import Corruption
from lightning_distill.robustness.contradiction import Contradiction
from lightning_distill.robustness.curve import Curve
from lightning_distill.robustness.noise import Noise
from lightning_distill.robustness.settings import check_modalities, check_settings
from lightning_distill.structures import Batch, ModelOutput, labelled_rows
from lightning_distill.tasks import Task

LEVELS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def robustness_curves(
    model: nn.Module,
    data: MultimodalDataModule,
    task: Task,
    split: str = "test",
    corruptions: Sequence[Corruption] | None = None,
    levels: Sequence[float] = LEVELS,
    modalities: Sequence[str] | None = None,
    seed: int = 0,
    trainer: Trainer | None = None,
) -> list[Curve]:
    """The task's metrics for every corruption, modality and level, in one pass over the data.

    Every curve is measured on the same samples: those with a label and any modality the model reads. A
    sample that lacks the modality stays as it is; `Curve.unchanged` counts such samples.

    Draws depend on the seed and each sample's id, so neither order nor batch size changes what `Noise` does
    to numbers and images or `Absence` to anything. `Contradiction`, and `Noise` on tokens, take from other
    samples of the batch: compare runs of one batch size.

    Args:
        model: Maps a `Batch` to a `ModelOutput`, or to logits "batch classes". A model that is no
            `MultimodalModel` reads the whole batch.
        data: Has at least the model's modalities.
        task: Says which metrics.
        split: "val" or "test".
        corruptions: Of different names; None is `Noise`, `Absence` and `Contradiction`.
        levels: Rising from 0 to at most 1.
        modalities: Which to make worse; None is all the model reads, or where it does not tell by an
            attribute `modalities`, all of the data's.
        seed: Of the draws.
        trainer: Where it runs; None is one device, chosen by Lightning.

    Returns:
        Corruption by corruption, each modality by modality.

    Raises:
        ConfigError: If settings, model, data and task do not fit.
    """
    ways = [Noise(), Absence(), Contradiction()] if corruptions is None else list(corruptions)
    reads = tuple(getattr(model, "modalities", None) or data.processors)
    worse = reads if modalities is None else tuple(modalities)
    check_settings(ways, levels)
    check_modalities(worse, reads)
    if isinstance(model, MultimodalModel):
        can_be_evaluated(model, data, task, split, "robustness_curves")
    else:
        split_is_known(split, "robustness_curves")
        data_have(data, reads, "robustness_curves")
        checks.target_fits(task, data, len(data.classes))
    if trainer is None:
        trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    kinds = [(way, modality) for way in ways for modality in worse]
    measuring = _Measuring(model, task, reads, kinds, tuple(map(float, levels)), len(data.classes), seed)
    run = trainer.validate if split == "val" else trainer.test
    run(measuring, datamodule=data, verbose=False)
    return measuring.curves


class _Measuring(LightningModule):
    """Runs the model once as it is and once for each kind and level of each batch."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        reads: tuple[str, ...],
        kinds: list[tuple[Corruption, str]],
        levels: tuple[float, ...],
        outputs: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.reads, self.kinds, self.levels = model, reads, kinds, levels
        self.outputs, self.seed = outputs, seed
        self.clean = task.metrics(outputs)
        worse = [task.metrics(outputs) for _ in kinds for _ in levels[1:]]
        self.worse = nn.ModuleList(worse)
        self.samples = 0
        self.unchanged = [0] * len(kinds)
        self.curves: list[Curve] = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        batch = _readable(batch, self.reads)
        rows = len(batch["target"])
        if not rows:
            return
        self.samples += rows
        self._measure(self.clean, batch)
        collections = iter(self.worse)
        for number, (way, modality) in enumerate(self.kinds):
            self.unchanged[number] += int(way.spared(batch, modality).sum())
            for level in self.levels[1:]:
                metrics = cast(MetricCollection, next(collections))
                self._measure(metrics, way(batch, modality, level, self.seed))

    def on_test_epoch_end(self) -> None:
        counts = torch.tensor([self.samples, *self.unchanged], device=self.device)
        # Every process must know that there are samples: computing a metric is a collective operation.
        counts = cast(Tensor, self.trainer.strategy.reduce(counts, reduce_op="sum"))
        samples, *unchanged = counts.tolist()
        values = [_values(cast(MetricCollection, m)) for m in (self.clean, *self.worse)] if samples else []
        steps = len(self.levels) - 1
        for number, (way, modality) in enumerate(self.kinds):
            start = 1 + number * steps
            row = [*values[:1], *values[start : start + steps]]
            metrics = {name: tuple(each[name] for each in row) for name in (row[0] if row else ())}
            self.curves.append(Curve(way.name, modality, self.levels, metrics, samples, unchanged[number]))

    validation_step, on_validation_epoch_end = test_step, on_test_epoch_end

    def _measure(self, metrics: MetricCollection, batch: Batch) -> None:
        logits = _logits(self.model(batch), self.outputs)
        for metric in _one_by_one(metrics).values():
            metric.update(logits, batch["target"])


def _one_by_one(metrics: MetricCollection) -> dict[str, Metric]:
    """A collection forms groups at its first update, which not every process may see."""
    return dict(metrics.items(keep_base=True))


def _values(metrics: MetricCollection) -> dict[str, float]:
    return {name: float(metric.compute()) for name, metric in _one_by_one(metrics).items()}


def _logits(output: object, width: int) -> Tensor:
    logits = output.logits if isinstance(output, ModelOutput) else output
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != width:
        found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise ConfigError(
            where="robustness_curves, what the model returns",
            found=found,
            expected=f"a ModelOutput or a tensor of logits, batch x {width} as the data have classes",
            fix="wrap the model in a module that returns its logits",
        )
    return logits


def _readable(batch: Batch, reads: tuple[str, ...]) -> Batch:
    """What the model reads, of samples with a label and any of it."""
    there = torch.stack([batch["present"][m] for m in reads]).any(dim=0)
    rows = (there & labelled_rows(batch["target"])).nonzero()[:, 0]
    return only_samples(batch, rows, reads)
