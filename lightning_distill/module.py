"""Training a student: steps, weighted terms, the clip rule, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lightning_distill import checks, parity
from lightning_distill.balancing import TermBalancer
from lightning_distill.clipping import ClipRule
from lightning_distill.dry_run import first_batch
from lightning_distill.epoch_means import EpochMeans
from lightning_distill.finite import FiniteCheck
from lightning_distill.losses import DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.optimization import GroupedOptimizer, make_optimizer, make_scheduler
from lightning_distill.pair import Pair
from lightning_distill.quiet import silence_warnings
from lightning_distill.randomness import default_seed, seed_step
from lightning_distill.ranks import first_process_first
from lightning_distill.schedules import Schedule
from lightning_distill.sharding import shard, whole
from lightning_distill.structures import Batch, ModelOutput, labelled_rows
from lightning_distill.tasks import Classification, Task
from lightning_distill.teachers import Teacher
from lightning_distill.term_log import TermLog, log_row, scale_report
from lightning_distill.terms import TASK, WeightedTerms


class DistillationModule(LightningModule):
    """Trains a student on labels, on a teacher's outputs, or on both.

    loss = w_task * task(student, labels) + sum_k w_k * term_k(student, teacher)

    Without a teacher it is plain supervised training, which is how teachers are made. Terms may read any
    layer of student and teacher: before training, one batch is run through both, to see that every layer is
    there and to build adaptors of the right size. In the first step, the size of each term and of its
    gradient is reported. Gradients are clipped by `clip_rule` in `configure_gradient_clipping`. Dropout in
    step t is a function of (seed, t, rank); the seed is the one given to `seed_everything`.

    Logs every `log_every_n_steps`: `train/loss`, each term raw (`train/<term>`) and weighted
    (`train/<term>_weighted`), averaged since the last time, and what the clip rule measured
    (`clip/<name>`); in evaluation the raw terms and the task's metrics under `val/` or `test/`, with the
    agreement of student and teacher as the task measures it. A batch's `weight` weighs its samples in the
    task's loss only, neither in the terms nor in the metrics.

    Args:
        student: The model to train.
        teacher: Where the distillation terms' targets come from.
        losses: Name -> distillation term; the name is free, but for "task".
        weights: Name -> weight, or a schedule; "task" is the task loss. 1 where not given. Hinton's alpha is
            {"task": 1 - alpha, "kd": alpha}.
        task: Task loss and metrics; None is `Classification`.
        clip_rule: What happens to gradients before each optimizer step.
        optimizer: Makes the optimizer from the parameters; with rates by part of the student, a
            `GroupedOptimizer`.
        lr_scheduler: Makes the scheduler from the optimizer.
        scheduler_interval: When the scheduler steps: once an epoch, or after every optimizer step.
        balancer: Makes what balances the weighted terms by itself; None adds them up.

    Raises:
        ConfigError: If terms, weights, task and teacher contradict each other; at setup, if the data hold
            other targets, or are prepared otherwise than the student's encoders need.
        TeacherError: At setup, if teacher and student differ in their classes or share a tensor, or the
            teacher would read other inputs than it was trained with.
        SampleError: On the CPU, if a sample has none of the modalities the student or the teacher reads.
        CheckpointError: On resuming `fit`, if the classes are others than before.
        NonFiniteError: On the CPU, on the step whose loss is NaN or infinite, before the update; elsewhere
            soon after, and before anything is saved or evaluated.
    """

    def __init__(
        self,
        student: MultimodalModel,
        teacher: Teacher | None = None,
        losses: dict[str, DistillationLoss] | None = None,
        weights: dict[str, float | Schedule] | None = None,
        task: Task | None = None,
        clip_rule: ClipRule | None = None,
        optimizer: OptimizerCallable | GroupedOptimizer = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        balancer: Callable[[tuple[str, ...]], TermBalancer] | None = None,
    ) -> None:
        super().__init__()
        checks.terms_fit(losses or {}, weights or {}, taught=teacher is not None)
        self.student = student
        self.teacher = teacher
        self.terms = WeightedTerms(losses or {}, weights or {}, balancer)
        self.task = task or Classification()
        checks.terms_fit_task(losses or {}, self.task)
        self.clip_rule = clip_rule
        self.optimizer_factory = optimizer
        self.scheduler_factory, self.scheduler_interval = lr_scheduler, scheduler_interval
        self.seed = default_seed()
        metrics = self.task.metrics(student.num_classes)
        if teacher is not None:
            metrics[self.task.agreement_name] = self.task.agreement(student.num_classes)
        self.metrics = nn.ModuleDict({stage: metrics.clone(prefix=f"{stage}/") for stage in ("val", "test")})
        self._pair = Pair(student, teacher)
        self._log, self._means = TermLog(), EpochMeans()
        self._finite, self._shown = FiniteCheck(deferred=False), False
        self._measured: dict[str, Tensor] = {}
        self._steps_seen = 0

    # -- set-up ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that data, student and teacher agree on classes, targets and preprocessing."""
        silence_warnings()
        datamodule = getattr(self.trainer, "datamodule", None)
        checks.target_fits(self.task, datamodule, self.student.num_classes)
        classes = getattr(datamodule, "classes", None)
        checks.classes_fit(self.student, None, classes)
        if self.teacher is not None:
            self.teacher.begin(self.student)
        self.teacher = checks.classes_fit(self.student, self.teacher, classes)
        checks.preprocessing_fits(self.student, self.teacher, datamodule)
        if stage == "fit":
            self.student.preprocessing = parity.recorded(self.student, datamodule)
        if self.teacher is None:
            return
        checks.nothing_shared(self, self.teacher)
        self._pair.close()
        self._pair = Pair(self.student, self.teacher)
        if stage == "predict":
            return
        if any(self.terms.layers):
            self._pair.read_layers(*self.terms.layers)
        with first_process_first(self.trainer):
            self._pair.open(datamodule, stage)
        if any(self.terms.layers):
            student, teacher = self._pair.dry_run(first_batch(self.trainer, stage))
            assert teacher is not None
            self.terms.adapt(student, teacher)

    def configure_model(self) -> None:
        """Split the student over the processes, where `ModelParallelStrategy` asks for it."""
        if self.device_mesh is not None:
            shard(self.student, self.terms, self.teacher, self.device_mesh)

    def on_fit_start(self) -> None:
        """Check that the clip rule will be obeyed, put student in train mode, move the teacher."""
        if self.clip_rule is not None:
            checks.clip_rule_is_obeyed(self.trainer)
        accelerator = torch.accelerator.current_accelerator()
        self._finite = FiniteCheck(deferred=accelerator is not None and self.device.type == accelerator.type)
        shown: Any = self.trainer.loggers or self.trainer.progress_bar_callback
        self._shown = bool(shown and self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        self.student.train()
        self._move_teacher()

    def on_validation_start(self) -> None:
        """Move the teacher to the student's device; see that the last losses were finite."""
        self._finite.settle()
        self._move_teacher()

    on_test_start = on_validation_start

    def _move_teacher(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over the student and the terms' adaptors; the teacher is not among them."""
        optimizer = make_optimizer(self.optimizer_factory, self)
        if self.scheduler_factory is None:
            return optimizer
        scheduler: Any = make_scheduler(self.scheduler_factory, optimizer, self, self.scheduler_interval)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Let the teacher add what it has on disk, while the batch is on the CPU."""
        return batch if self.teacher is None else self.teacher.fetch(batch)

    def on_train_epoch_end(self) -> None:
        """See that the last losses were finite; let the teacher keep what it has said."""
        self._finite.settle()
        if self.teacher is not None:
            self.teacher.end_epoch(self.trainer.strategy.barrier)

    def teardown(self, stage: str) -> None:
        """Let the teacher close what it has open."""
        if self.teacher is not None:
            self.teacher.close()

    # -- one step -------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> ModelOutput:
        """The student's answer."""
        return self.student(batch)

    def raw_terms(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> dict[str, Tensor]:
        """Each term's unweighted value, "task" first."""
        terms = {TASK: self.task.loss(student.logits, batch["target"], batch.get("weight"))}
        if teacher is not None:
            terms |= self.terms.raw(student, teacher, batch)
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of raw terms, with the weights of this moment of training."""
        trained = self.student.parameters() if self.training and torch.is_grad_enabled() else None
        return self.terms.total(terms, self._weights_now(), trained)

    def _weights_now(self) -> dict[str, float]:
        trainer = self._trainer
        return self.terms.weights_at(*((trainer.global_step, trainer.current_epoch) if trainer else (0, 0)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, or stop on one that is not finite."""
        seed_step(self.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank)
        student, teacher = self._pair.answers(batch)
        terms = self.raw_terms(student, teacher, batch)
        loss = self.total(terms)
        self._look_at(loss, terms, student, batch, batch_idx)
        return loss

    def _look_at(
        self, loss: Tensor, terms: Mapping[str, Tensor], student: ModelOutput, batch: Batch, batch_idx: int
    ) -> None:
        """Stop on a loss that is not finite, and keep what is to be logged."""
        self._finite(loss, terms, batch, self.trainer)
        self._tell_scales(terms, batch_idx)
        self._record(loss, terms, student, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Give the loggers what was measured; let the teacher follow, once an optimizer step."""
        if self._measured:
            log_row(self.trainer, self._measured)
            self._measured = {}
        if self.teacher is not None and self.trainer.global_step > self._steps_seen:
            self._steps_seen = self.trainer.global_step
            self.teacher.after_step(self.student, self._steps_seen)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Apply the clip rule, g = clip(g, -eps, eps); without one, do what the Trainer was told."""
        if self.clip_rule is None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        report = self.clip_rule.clip(parameters, measure=self._logs_this_step())
        self._measure({f"clip/{name}": whole(value) for name, value in report.items()})

    # -- logging --------------------------------------------------------------------------------------

    def _logs_this_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _record(
        self, loss: Tensor, terms: Mapping[str, Tensor], student: ModelOutput, batch_idx: int
    ) -> None:
        if not self._shown:
            return
        self._log.add(loss, terms)
        if not self._logs_this_step():
            return
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches and not self.trainer.is_last_batch:
            return
        self._finite.settle()
        means = self._log.take(terms, self._weights_now())
        if self.trainer.progress_bar_callback is not None:
            self.log("train/loss", means["train/loss"], prog_bar=True, logger=False)
        self._measure(means | {f"student/{name}": value for name, value in student.extras.items()})
        if self.terms.balancer is not None:
            self._measure({f"balance/{name}": f for name, f in self.terms.balancer.factors().items()})

    def _measure(self, values: Mapping[str, Tensor]) -> None:
        """Show these to callbacks now, and to loggers when the step is done."""
        if values:
            self._measured |= values
            self.trainer.callback_metrics.update(values)

    def _tell_scales(self, terms: Mapping[str, Tensor], batch_idx: int) -> None:
        """In the very first step. Sharded parameters have no gradient of their own to measure."""
        first = batch_idx == 0 and self.trainer.global_step == 0
        if first and len(terms) > 1 and not checks.shards(self.trainer):
            for line in scale_report(terms, self._weights_now(), self.student.parameters()):
                rank_zero_info(line)

    # -- evaluation -----------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update metrics under `val/`."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update metrics under `test/`."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, stage: str) -> None:
        student, teacher = self._pair.answers(batch)
        terms = self.raw_terms(student, teacher, batch)
        self._add_means({f"{stage}/loss": self.total(terms)} | _under(stage, terms), batch)
        self._update_metrics(stage, student, [] if teacher is None else [teacher], batch)

    def _add_means(self, values: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch's values; the task's own loss by its labels, all else by its size."""
        size, labelled = len(batch["target"]), labelled_rows(batch["target"])
        # A float on every process: where some are whole numbers, they do not add up.
        share = float((labelled * batch["weight"]).sum() if "weight" in batch else labelled.sum())
        self._means.add(values, {n: share if n.rpartition("/")[2] == TASK else size for n in values})

    def _update_metrics(
        self, place: str, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch
    ) -> None:
        """Update the task's metrics by what has a label, the agreement by everything."""
        metrics: MetricCollection = self.metrics[place]  # type: ignore[assignment]
        agreement, labelled = self.task.agreement_name, labelled_rows(batch["target"])
        for teacher in teachers:
            metrics[agreement].update(student.logits, teacher.logits)
        if bool(labelled.any()):
            logits, target = student.logits[labelled], batch["target"][labelled]
            for name, metric in metrics.items(keep_base=True):
                if name != agreement:
                    metric.update(logits, target)

    def on_validation_epoch_start(self) -> None:
        """Forget what an evaluation that was broken off has left."""
        self._means.take()

    def on_validation_epoch_end(self) -> None:
        """Log what was measured, once: a name costs about as much as a small batch."""
        self._log_evaluation("val")

    on_test_epoch_start = on_validation_epoch_start

    def on_test_epoch_end(self) -> None:
        """Log what was measured."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        # What saw no label has no value. Several processes must all log the same names, though.
        shared = self.trainer.world_size > 1
        for name, (mean, weight) in self._means.take().items():
            if weight or shared:
                self.log(name, mean, batch_size=weight, sync_dist=True)  # type: ignore[arg-type]
        for place, metrics in self.metrics.items():
            if place.partition("/")[0] == stage:
                known = {n: m for n, m in metrics.items(keep_base=True) if m.update_called or shared}  # type: ignore[operator]
                self.log_dict(_under(place, known))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Sample ids, what the task makes of the logits, and embeddings "batch dim"."""
        checks.all_can_be_read(batch, {"student": self.student.modalities})
        output = self.student(batch)
        said = self.task.predict(output.logits)
        return {"sample_id": batch["sample_id"], **said, "embedding": output.embedding}

    # -- checkpoints ----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes, and what a teacher that changes has become.

        Raises:
            NonFiniteError: If a loss before it was NaN or infinite.
        """
        self._finite.settle()
        checkpoint["classes"] = None if self.student.classes is None else list(self.student.classes)
        if self.teacher is not None and (state := self.teacher.state_dict()):
            checkpoint["teacher"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on training with other classes; give the teacher what it had become."""
        if self._trainer is None:
            return
        if self.trainer.state.fn == "fit":
            checks.same_classes_as_before(checkpoint.get("classes"), self.student.classes)
        if self.teacher is not None and "teacher" in checkpoint:
            self.teacher.load_state_dict(checkpoint["teacher"])


def _under(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{place}/{name}": value for name, value in values.items()}
