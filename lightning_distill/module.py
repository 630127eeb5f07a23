"""Training a student: steps, weighted terms, the clip rule, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lightning_distill import checks, resuming
from lightning_distill.balancing import TermBalancer
from lightning_distill.clipper import refuse_two_guards
from lightning_distill.clipping import ClipRule
from lightning_distill.dry_run import first_batch
from lightning_distill.gradient_balancing import GradientBalancer
from lightning_distill.gradient_step import GradientStep, loss_scale, view_of
from lightning_distill.losses import DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.optimization import GroupedOptimizer, make_optimizer, make_scheduler
from lightning_distill.randomness import seed_step
from lightning_distill.ranks import average
from lightning_distill.schedules import Schedule
from lightning_distill.sharding import shard
from lightning_distill.stage_metrics import under
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.tasks import Classification, Task
from lightning_distill.teachers import Teacher
from lightning_distill.telemetry import term_gradients
from lightning_distill.term_log import StepLog, scale_report
from lightning_distill.terms import TASK, WeightedTerms, label_losses, nothing, own_terms
from lightning_distill.watched import WatchedModule


class DistillationModule(WatchedModule):
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
    agreement of student and teacher as the task measures it, and the metrics of unimodal heads under
    `val/unimodal/<modality>/`. A batch's `weight` weighs its samples in the
    task's loss only, neither in the terms nor in the metrics.

    Before each optimizer step the loss, every term, the teacher's logits and all gradients are looked at.
    What is NaN or infinite is named, with the samples and the layer where it began. `skip_non_finite` lets
    such steps be left out: neither weights nor moments, buffers or a rule's history change, on no process;
    but the step counts, for `global_step`, every schedule and a teacher that follows. A rule with a guard of
    its own, such as `SkipNonFinite`, takes the place of the look at gradients; under 16-mixed the loss scaler
    does. `train/skipped_steps` is logged where steps may be left out.

    Args:
        student: The model to train.
        teacher: Where the distillation terms' targets come from.
        losses: Name -> distillation term; the name is free, but for "task" and "unimodal".
        weights: Name -> weight, or a schedule; "task" is the task loss, "unimodal" the mean task loss of the
            student's unimodal heads. 1 where not given. Hinton's alpha is {"task": 1 - alpha, "kd": alpha}.
        task: Task loss and metrics; None is `Classification`.
        clip_rule: What happens to gradients before each optimizer step.
        optimizer: Makes the optimizer from the parameters; with rates by part of the student, a
            `GroupedOptimizer`.
        lr_scheduler: Makes the scheduler from the optimizer.
        scheduler_interval: When the scheduler steps: once an epoch, or after every optimizer step.
        balancer: Makes what balances the weighted terms by itself; None adds them up.
        gradient_balancer: Balances what modalities or terms do to the weights, before the clip rule; not
            beside a `balancer`.
        skip_non_finite: How many optimizer steps in a row may be left out because a loss or a gradient is NaN
            or infinite; 0 stops at the first.

    Raises:
        ConfigError: If terms, weights, task and teacher contradict each other, or a rule leaves steps out
            beside `skip_non_finite`; at setup, if the data hold other targets, or are prepared otherwise than
            the student's encoders need.
        TeacherError: At setup, if teacher and student differ in their classes or share a tensor, or the
            teacher would read other inputs than it was trained with.
        SampleError: On the CPU, if a sample has none of the modalities the student or the teacher reads.
        CheckpointError: On resuming `fit`, if the classes are others than before.
        NonFiniteError: On the CPU, on the step whose loss or gradient is NaN or infinite, before the update;
            elsewhere soon after, and before anything is saved or evaluated. Weights that are not finite are
            never saved.
        MemoryShortError: If memory runs out in a step.
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
        gradient_balancer: GradientBalancer | None = None,
        skip_non_finite: int = 0,
    ) -> None:
        super().__init__(student, teacher, task or Classification(), skip_non_finite)
        refuse_two_guards(skip_non_finite, clip_rule)
        own = own_terms([student])
        checks.terms_fit(losses or {}, weights or {}, teacher is not None, own)
        checks.one_balancer(balancer, gradient_balancer)
        self.terms = WeightedTerms(losses or {}, weights or {}, balancer, own)
        checks.terms_fit_task(losses or {}, self.task)
        self.clip_rule, self.gradient_balancer = clip_rule, gradient_balancer
        self.optimizer_factory = optimizer
        self.scheduler_factory, self.scheduler_interval = lr_scheduler, scheduler_interval
        self._log = StepLog()
        self._step = GradientStep(None, None)

    # -- set-up ---------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that data, student and teacher go together; build the terms' adaptors."""
        super().setup(stage)
        if stage != "predict" and any(self.terms.layers):
            self.see_shapes(first_batch(self.trainer, stage))

    def read_layers(self) -> None:
        """Those the terms read."""
        if any(self.terms.layers):
            self._pair.read_layers(*self.terms.layers)

    def see_shapes(self, batch: Batch) -> None:
        """See that all layers are there, and build the terms' adaptors."""
        self.terms.adapt(*self._pair.dry_run(batch))

    def configure_model(self) -> None:
        """Split the student over the processes, where `ModelParallelStrategy` asks for it."""
        if self.device_mesh is not None:
            shard(self.student, self.terms, self.teacher, self.device_mesh)

    def on_fit_start(self) -> None:
        """Check that the clip rule will be obeyed, put student in train mode, move the teacher."""
        super().on_fit_start()
        self._step = GradientStep(self.clip_rule, self.gradient_balancer)
        self._step.begin(self.trainer, self, checks.shards(self.trainer))
        self._log.begin(self.trainer)
        self.student.train()
        self.move_teacher()

    def on_train_start(self) -> None:
        """After a break, go on with the log, and do first what was still to be done."""
        if self._break is not None:
            self._log.go_on(self._break.log, self.trainer)
        super().on_train_start()

    def on_validation_start(self) -> None:
        """Move the teacher to the student's device; see that the last steps were finite."""
        self._settle()
        self.move_teacher()
        if self.gradient_balancer is not None:
            self.gradient_balancer.begin_validation()

    on_test_start = on_validation_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save nothing that was made with a loss that is not finite, or is not finite itself.

        Raises:
            NonFiniteError: If a loss or gradient before it was NaN or infinite, or a weight is.
            MemoryShortError: If memory ran out in the middle of an update.
        """
        self._settle()
        super().on_save_checkpoint(checkpoint)
        alone = self.gradient_balancer is None
        noted = resuming.note(checkpoint, self.trainer, self._validated, gradients_suffice=alone)
        noted["log"] = self._log.state()

    def _settle(self) -> None:
        self._finite.settle()
        self._step.settle()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What rule and balancer remember is the same on all processes: DDP need not send it every step."""
        parts = {"clip_rule": self.clip_rule, "gradient_balancer": self.gradient_balancer}
        found = [(part, name) for part, m in parts.items() if m is not None for name, _ in m.named_buffers()]
        return [f"{part}.{name}" for part, name in found]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over the student and the terms' adaptors; the teacher is not among them."""
        optimizer = make_optimizer(self.optimizer_factory, self)
        if self.scheduler_factory is None:
            return optimizer
        scheduler: Any = make_scheduler(self.scheduler_factory, optimizer, self, self.scheduler_interval)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_train_epoch_end(self) -> None:
        """See that the last steps were finite; let balancer and teacher close the epoch."""
        self._settle()
        if self.gradient_balancer is not None:
            self.gradient_balancer.end_epoch(lambda value: average([value])[0])
        self.close_teachers_epoch()
        self.close_first_epoch()

    # -- one step -------------------------------------------------------------------------------------

    def raw_terms(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> dict[str, Tensor]:
        """Each term's unweighted value, "task" first."""
        return {**label_losses(self.task, student, batch), **self.terms.raw(student, teacher, batch)}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of raw terms, with the weights of this moment of training."""
        trained = self.student.parameters() if self.training and torch.is_grad_enabled() else None
        return self.terms.total(terms, self._weights_now(), trained)

    def _weights_now(self) -> dict[str, float]:
        trainer = self._trainer
        return self.terms.weights_at(*((trainer.global_step, trainer.current_epoch) if trainer else (0, 0)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, or stop on one that is not finite."""
        with self.forward_pass(batch):
            return self.loss_of(batch, batch_idx)

    def loss_of(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the terms, looked at and logged."""
        seed_step(self.seed, self.trainer.fit_loop.total_batch_idx, self.global_rank)
        self._step.scale_boundaries(self.trainer, self._log.writes(self.trainer))
        self.terms.begin_step(self.trainer.global_step, self.trainer.current_epoch)
        student, teacher = self._pair.answers(batch)
        terms = self.raw_terms(student, teacher, batch)
        loss = self._balanced(terms, student, batch) if self.gradient_balancer else self.total(terms)
        return self._looked_at(loss, terms, student, teacher, batch, batch_idx)

    def _balanced(self, terms: Mapping[str, Tensor], student: ModelOutput, batch: Batch) -> Tensor:
        """The sum of what the gradient balancer makes of the weighted terms."""
        where = (self.trainer.global_step, self.current_epoch, self.seed)
        view = view_of(self.student, self.task, student, batch, *where)
        weighted = self.terms.weighted(terms, self._weights_now()) or {TASK: nothing(terms)}
        trained = self._step.terms(weighted, view, self.trainer if self.training else None)
        own = {f"train/{name}": value.detach() for name, value in trained.items() if name not in terms}
        self._log.measure(own if self.training else {}, self.trainer)
        return torch.stack(list(trained.values())).sum()

    def _looked_at(
        self,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        student: ModelOutput,
        teacher: ModelOutput | None,
        batch: Batch,
        batch_idx: int,
    ) -> Tensor:
        """Stop on a loss that is not finite, and keep what is to be logged; the loss to train on."""
        said = None if teacher is None else teacher.logits
        origin = partial(self.origin, batch, self.trainer.fit_loop.total_batch_idx)
        trained = self._finite(loss, terms, batch, self.trainer, said, origin)
        if self._finite.spoilt:  # means are of what is trained on
            return trained
        self._tell_scales(terms, batch_idx)
        if self._log.add(loss, terms, self.trainer, batch_idx):
            self._finite.settle()
            self._record(terms, student)
        return trained

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Give the loggers what was measured; let the teacher follow, once an optimizer step."""
        self._log.flush(self.trainer)
        self.let_teacher_follow()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Balance gradients, then apply the clip rule, g = clip(g, -eps, eps).

        Without a rule, do what the Trainer was told.
        """
        self._before_step(optimizer)
        if self.clip_rule is None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The same for subclasses that optimize manually, whom Lightning does not ask to clip."""
        if not self.automatic_optimization:
            self._before_step(optimizer)

    def _before_step(self, optimizer: Optimizer) -> None:
        measure = self._log.writes(self.trainer)
        with self._memory("what is done to gradients"):
            told = self._step.act(self.trainer, optimizer, measure, self._finite)
        self._log.measure(told, self.trainer)

    # -- logging --------------------------------------------------------------------------------------

    def _record(self, terms: Mapping[str, Tensor], student: ModelOutput) -> None:
        """Measure what goes with this step's log entry."""
        weights = self._weights_now()
        means = self._log.means(terms, weights)
        if self.trainer.progress_bar_callback is not None:
            self.log("train/loss", means["train/loss"], prog_bar=True, logger=False)
        told = means | {f"student/{name}": value for name, value in student.extras.items()}
        if student.embedding is not None and TASK in terms and len(terms) > 1:
            scale = loss_scale(self.trainer)
            weighted = self.terms.weighted(terms, weights)
            told |= term_gradients(weighted, student.embedding, 1.0 if scale is None else scale)
        self._step.watch(student.extras, self.trainer)
        if self.terms.balancer is not None:
            told |= {f"balance/{name}": f for name, f in self.terms.balancer.factors().items()}
        self._log.measure(told, self.trainer)

    def _tell_scales(self, terms: Mapping[str, Tensor], batch_idx: int) -> None:
        """In the very first step. Sharded parameters have no gradient of their own to measure."""
        first = batch_idx == 0 and self.trainer.global_step == 0
        if first and len(terms) > 1 and not checks.shards(self.trainer):
            for line in scale_report(terms, self._weights_now(), self.student.parameters()):
                rank_zero_info(line)

    # -- evaluation -----------------------------------------------------------------------------------

    def evaluate_batch(self, batch: Batch, stage: str) -> tuple[ModelOutput, ModelOutput | None]:
        """Update means and metrics."""
        student, teacher = self._pair.answers(batch)
        terms = self.raw_terms(student, teacher, batch)
        fitting = stage == "val" and self.trainer.state.fn == "fit"
        if fitting and self.gradient_balancer is not None and self.gradient_balancer.reads_validation:
            self._balanced(terms, student, batch)
        self.metrics.add(under(stage, {"loss": self.total(terms)} | terms), batch)
        self.metrics.update_at(stage, student, [] if teacher is None else [teacher], batch)
        self.update_unimodal(stage, student, batch)
        return student, teacher
