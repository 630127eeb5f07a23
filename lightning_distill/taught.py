"""A student with a teacher beside it: set-up, devices, what is on disk, checkpoints."""

from __future__ import annotations

from typing import Any

from lightning_distill import checks, parity
from lightning_distill.evaluated import EvaluatedModule
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
        self._steps_seen = 0

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
        if self.teacher is not None:
            checks.nothing_shared(self, self.teacher)
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
        """Let the teacher keep what it has said."""
        if self.teacher is not None:
            self.teacher.end_epoch(self.trainer.strategy.barrier)

    def teardown(self, stage: str) -> None:
        """Let the teacher close what it has open."""
        if self.teacher is not None:
            self.teacher.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes, and what a teacher that changes has become."""
        # A checkpoint of a step is written before `on_train_batch_end`, where the teacher follows that step.
        self.let_teacher_follow()
        checkpoint["classes"] = None if self.student.classes is None else list(self.student.classes)
        if self.teacher is not None and (state := self.teacher.state_dict()):
            checkpoint["teacher"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on training with other classes; give the teacher what it had become."""
        if self._trainer is None:
            return
        if self.trainer.state.fn == "fit":
            checks.same_classes_as_before(checkpoint.get("classes"), self.student.classes)
            self._steps_seen = checkpoint.get("global_step", 0)
        if self.teacher is not None and "teacher" in checkpoint:
            self.teacher.load_state_dict(checkpoint["teacher"])
