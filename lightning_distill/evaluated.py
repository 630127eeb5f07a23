"""A student in validation, test and prediction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule

from lightning_distill import checks
from lightning_distill.domain_metrics import DomainMetrics
from lightning_distill.model import MultimodalModel
from lightning_distill.stage_metrics import StageMetrics
from lightning_distill.structures import Batch, ModelOutput, only_rows
from lightning_distill.tasks import Task
from lightning_distill.terms import UNIMODAL


class EvaluatedModule(LightningModule):
    """Everything of a module that is not training.

    Args:
        student: The model.
        task: Its metrics.
        taught: Whether agreement with a teacher is measured too.
        places: Where metrics are logged.
    """

    def __init__(
        self,
        student: MultimodalModel,
        task: Task,
        taught: bool,
        places: Iterable[str] = ("val", "test"),
    ) -> None:
        super().__init__()
        self.student = student
        self.task = task
        self.metrics = StageMetrics(task, student.num_classes, taught, places)
        own = [f"{stage}/{UNIMODAL}/{m}" for stage in ("val", "test") for m in student.unimodal_heads]
        self.unimodal_metrics = StageMetrics(task, student.num_classes, False, own)
        self._taught = taught
        self.domain_metrics: DomainMetrics | None = None
        """Where the data have several domains, see `watch_domains`."""

    def forward(self, batch: Batch) -> ModelOutput:
        """The student's answer."""
        return self.student(batch)

    @abstractmethod
    def evaluate_batch(self, batch: Batch, stage: str) -> tuple[ModelOutput, ModelOutput | None]:
        """Update means and metrics.

        Args:
            batch: Of validation or test.
            stage: "val" or "test".

        Returns:
            What student and teacher said.
        """

    def watch_domains(self, domains: Sequence[str]) -> None:
        """Measure each domain too, from now on.

        Args:
            domains: Names in the order of `Batch.domain`; none or one is not measured by itself.
        """
        several = len(domains) > 1
        made = DomainMetrics(self.task, self.student.num_classes, self._taught, domains) if several else None
        self.domain_metrics = made

    def update_unimodal(self, stage: str, student: ModelOutput, batch: Batch) -> None:
        """Update the metrics of the student's unimodal heads, on the samples that have the modality.

        Args:
            stage: "val" or "test".
            student: Its answer.
            batch: What was answered.
        """
        for modality, logits in student.unimodal.items():
            known = only_rows(batch["target"], student.present[modality])
            seen: Batch = {**batch, "target": known}
            place = f"{stage}/{UNIMODAL}/{modality}"
            self.unimodal_metrics.update_at(place, replace(student, logits=logits), [], seen)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, ModelOutput | None]:
        """Update metrics under `val/`; callbacks get what "student" and "teacher" said."""
        return self._evaluated(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, ModelOutput | None]:
        """Update metrics under `test/`; callbacks get what "student" and "teacher" said."""
        return self._evaluated(batch, "test")

    def _evaluated(self, batch: Batch, stage: str) -> dict[str, ModelOutput | None]:
        student, teacher = self.evaluate_batch(batch, stage)
        if self.domain_metrics is not None:
            self.domain_metrics.update_domains(stage, student, teacher, batch)
        return {"student": student, "teacher": teacher}

    def on_validation_epoch_start(self) -> None:
        """Forget what an evaluation that was broken off has left."""
        for metrics in self._measured():
            metrics.forget_means()

    def on_validation_epoch_end(self) -> None:
        """Log what was measured."""
        for metrics in self._measured():
            metrics.log(self, "val")

    on_test_epoch_start = on_validation_epoch_start

    def on_test_epoch_end(self) -> None:
        """Log what was measured."""
        for metrics in self._measured():
            metrics.log(self, "test")

    def _measured(self) -> list[StageMetrics]:
        found = [self.metrics, self.unimodal_metrics, self.domain_metrics]
        return [metrics for metrics in found if metrics is not None]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Sample ids, what the task makes of the logits, and embeddings "batch dim"."""
        checks.all_can_be_read(batch, {"student": self.student.modalities})
        output = self.student(batch)
        said = self.task.predict(output.logits)
        return {"sample_id": batch["sample_id"], **said, "embedding": output.embedding}
