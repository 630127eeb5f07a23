"""A student with a teacher beside it: set-up, devices, what is on disk, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_distill import checks, parity, resuming, same_run
from lightning_distill.evaluated import EvaluatedModule
from lightning_distill.guards.teacher_guard import TeacherGuard
from lightning_distill.model import MultimodalModel
from lightning_distill.pair import Pair
from lightning_distill.quiet import silence_warnings
from lightning_distill.ranks import first_process_first
from lightning_distill.structures import Batch
from lightning_distill.tasks import Task
from lightning_distill.teachers import Teacher


class TaughtModule(EvaluatedModule):
    """Leads a teacher through Lightning's hooks; without one it only checks student and data.

    Args:
        student: What is trained.
        teacher: It is in no optimizer and no checkpoint, but for what one that changes has become.
        task: Of the student.
    """

    def __init__(self, student: MultimodalModel, teacher: Teacher | None, task: Task) -> None:
        super().__init__(student, task, taught=teacher is not None)
        self.teacher = teacher
        self._pair = Pair(student, teacher)
        self._guard: TeacherGuard | None = None
        self.forced = False
        """Go on from a checkpoint although data, batches or processes are not those of its run."""
        self._steps_seen = 0
        self._validated = False
        self._break: resuming.Break | None = None

    def setup(self, stage: str) -> None:
        """Check that data, student and teacher agree on classes, targets and preprocessing."""
        silence_warnings()
        datamodule = getattr(self.trainer, "datamodule", None)
        checks.target_fits(self.task, datamodule, self.student.num_classes)
        self.watch_domains(getattr(datamodule, "domains", ()))
        classes = getattr(datamodule, "classes", None)
        checks.classes_fit(self.student, None, classes)
        if self.teacher is not None:
            self.teacher.begin(self.student)
        self.teacher = checks.classes_fit(self.student, self.teacher, classes)
        checks.preprocessing_fits(self.student, self.teacher, datamodule)
        if stage == "fit":
            self.student.preprocessing = parity.recorded(self.student, datamodule)
            self._steps_seen = 0
            self._break = None
        if self.teacher is not None:
            checks.nothing_shared(self, self.teacher)
            self._guard = TeacherGuard(self.teacher) if stage == "fit" else None
        self._pair.close()
        self._pair = Pair(self.student, self.teacher)
        if stage == "predict":
            return
        self.read_layers()
        if self.teacher is not None:
            with first_process_first(self.trainer):
                self._pair.open(datamodule, stage)

    def read_layers(self) -> None:
        """Say which layers are to be part of the answers; none by default."""

    def on_train_start(self) -> None:
        """See that nothing of the teacher is trained; after a break, do first what was still to be done."""
        if self.teacher is not None:
            checks.nothing_shared(self, self.teacher)
            checks.nothing_stepped(self.trainer.optimizers, self.teacher)
        if self._break is not None:
            resuming.go_on(self.trainer, self._break)

    def close_first_epoch(self) -> None:
        """After a break, let the next epoch begin like any other; within `on_train_epoch_end`."""
        resuming.close_epoch(self.trainer, self._break)
        self._break = None

    def on_fit_end(self) -> None:
        """Where nothing was left to do, tell the metrics of before."""
        if self._break is not None:
            resuming.restore_metrics(self.trainer, self._break)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Forget that there was a validation."""
        self._validated = False

    def on_validation_epoch_end(self) -> None:
        """Log what was measured."""
        super().on_validation_epoch_end()
        self._validated = True

    def move_teacher(self) -> None:
        """Put the teacher on the student's device."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Let the teacher add what it has on disk, while the batch is on the CPU."""
        return batch if self.teacher is None else self.teacher.fetch(batch)

    def let_teacher_follow(self) -> None:
        """Tell the teacher of a step, once an optimizer step."""
        if self.teacher is not None and self.trainer.global_step > self._steps_seen:
            self._steps_seen = self.trainer.global_step
            self.teacher.after_step(self.student, self._steps_seen)

    def close_teachers_epoch(self) -> None:
        """See that the teacher is as it was; let it keep what it has said."""
        if self._guard is not None:
            self._guard.unchanged()
        if self.teacher is not None:
            self.teacher.end_epoch(self.trainer.strategy.barrier)

    def teardown(self, stage: str) -> None:
        """Let the teacher close what it has open."""
        if self.teacher is not None:
            self.teacher.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes, who the teacher is, and what one that changes has become."""
        if self.teacher is not None:
            checks.nothing_shared(self, self.teacher)
        if self._guard is not None:
            self._guard.unchanged()
            checkpoint["teacher_identity"] = self._guard.identity
        # A checkpoint of a step is written before `on_train_batch_end`, where the teacher follows that step.
        self.let_teacher_follow()
        same_run.note(checkpoint, self.trainer)
        checkpoint["classes"] = None if self.student.classes is None else list(self.student.classes)
        if self.teacher is not None and (state := self.teacher.state_dict()):
            checkpoint["teacher"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other classes or another teacher; give one that changes what it had become."""
        if self._trainer is None:
            return
        if self.trainer.state.fn == "fit":
            checks.same_classes_as_before(checkpoint.get("classes"), self.student.classes)
            if self._guard is not None:
                self._guard.same_as_before(checkpoint.get("teacher_identity"))
            self._steps_seen = checkpoint.get("global_step", 0)
            same_run.check(checkpoint, self.trainer, self.forced)
            self._break = resuming.take(checkpoint, self.trainer)
        if self.teacher is not None and "teacher" in checkpoint:
            self.teacher.load_state_dict(checkpoint["teacher"])

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights.

        Raises:
            CheckpointError: If they are those of another model.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            where = None if self._trainer is None else self._trainer.ckpt_path
            raise same_run.misfit(self, state_dict, str(where or "state_dict")) from error
