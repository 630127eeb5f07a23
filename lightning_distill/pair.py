"""Student and teacher before the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_distill import checks
from lightning_distill.data.base import NEEDED
from lightning_distill.extraction import LayerExtractor
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import OUTPUT_NAMES, Batch, ModelOutput, is_layer
from lightning_distill.teachers import Teacher


class Pair:
    """Lets student and teacher answer a batch, with the layers that were asked for.

    Args:
        student: With gradient.
        teacher: None where nothing is distilled.
    """

    def __init__(self, student: MultimodalModel, teacher: Teacher | None) -> None:
        self._student, self._teacher = student, teacher
        self._extractor: LayerExtractor | None = None

    def read_layers(self, student: Sequence[str], teacher: Sequence[str]) -> None:
        """Make these part of every answer from now on.

        Args:
            student: Names as `ModelOutput.at` takes them.
            teacher: The teacher's.

        Raises:
            ConfigError: If there is no such layer.
        """
        self.close()
        paths = [name for name in student if is_layer(name, self._student.modalities)]
        named = [*OUTPUT_NAMES, *(f"features.{m}" for m in self._student.modalities)]
        self._extractor = LayerExtractor(self._student, paths, "student", named) if paths else None
        if self._teacher is not None:
            self._teacher.read_layers(teacher)

    def open(self, data: Any, stage: str) -> None:
        """Tell the teacher which data come next. What it alone would read is left out if it need not read.

        Args:
            data: The DataModule.
            stage: As Lightning's hook `setup` is told: "fit", "validate" or "test".
        """
        assert self._teacher is not None
        needed = bool(self._teacher.requirements)
        self._teacher.open(data, NEEDED.get(stage, ("test",)))
        if needed and not self._teacher.requirements:
            data.leave_out(
                [("inputs", m) for m in data.processors if m not in self._student.modalities]
                + [("teacher_inputs", m) for m in data.teacher_processors]
            )

    def close(self) -> None:
        """Read no layers of the student any more."""
        if self._extractor is not None:
            self._extractor.close()
            self._extractor = None

    def answers(self, batch: Batch) -> tuple[ModelOutput, ModelOutput | None]:
        """Of student and teacher; the teacher reads its own inputs where the batch has such.

        Raises:
            SampleError: On the CPU, if a sample has none of the modalities one of them reads.
        """
        readers: dict[str, Sequence[str]] = {"student": self._student.modalities}
        if self._teacher is not None:
            readers["teacher"] = tuple(self._teacher.requirements)
        checks.all_can_be_read(batch, readers)
        student = self._student_answer(batch)
        if self._teacher is None:
            return student, None
        inputs = {**batch["inputs"], **batch.get("teacher_inputs", {})}
        return student, self._teacher({**batch, "inputs": inputs})  # type: ignore[typeddict-item]

    def dry_run(self, batch: Batch) -> tuple[ModelOutput, ModelOutput | None]:
        """`answers` without gradient, and without a trace in the student's batch normalisation."""
        was_training = self._student.training
        self._student.eval()
        try:
            with torch.no_grad():
                return self.answers(batch)
        finally:
            self._student.train(was_training)

    def _student_answer(self, batch: Batch) -> ModelOutput:
        if self._extractor is None:
            return self._student(batch)
        with self._extractor.capturing() as layers:
            output: ModelOutput = self._student(batch)
        return replace(output, layers=layers)
