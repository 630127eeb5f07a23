"""A finished run, and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_distill.data import MultimodalDataModule
from lightning_distill.model import MultimodalModel
from lightning_distill.tasks import Task
from lightning_distill.teachers import Teacher


@dataclass(frozen=True)
class OpenedRun:
    """A finished run and what belongs to it.

    Attributes:
        run: Its folder, with config.yaml, env.json and metrics.csv.
        student: What it has trained.
        teacher: Who taught it; None where there is none, or it cannot be made any more.
        pairs: Students with a teacher, each with its matched baseline; the first student is the run's. Empty
            where there is no baseline.
        data: Of the run.
        task: Of the run.
        left_out: Sentences: what could not be opened, and why.
    """

    run: Path
    student: MultimodalModel
    teacher: Teacher | None
    pairs: tuple[tuple[MultimodalModel, MultimodalModel], ...]
    data: MultimodalDataModule
    task: Task
    left_out: tuple[str, ...] = ()
