"""Contributions of the modalities of student and teacher, each as it reads the data."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lightning.pytorch import Trainer

from lightning_distill.contribution import MOST_MODALITIES, Contributions, contributions
from lightning_distill.data import MultimodalDataModule
from lightning_distill.errors import TeacherError
from lightning_distill.model import MultimodalModel
from lightning_distill.tasks import Task
from lightning_distill.teachers import ModelTeacher, Teacher, TeacherWrapper


def shares(
    model: MultimodalModel | Teacher, data: MultimodalDataModule, task: Task, split: str
) -> Contributions | None:
    """See `contributions`.

    Args:
        model: Student or teacher.
        data: Of the run.
        task: Of the run.
        split: "val" or "test".

    Returns:
        None for a model of one modality, or of too many.

    Raises:
        TeacherError: If the teacher is no model that answers from some of its modalities, or has not the
            classes of the data in their order.
        ConfigError: If model, data and task do not fit.
    """
    if isinstance(model, Teacher):
        inner = unwrapped(model)
        if not isinstance(inner, ModelTeacher) or not isinstance(inner.model, MultimodalModel):
            raise TeacherError(
                where="the teacher",
                found=f"a {type(inner).__name__}, which cannot be asked with some of its modalities only",
                expected="a model of this library in a FrozenTeacher",
                fix="compare the metrics instead",
            )
        model, data = inner.model, _as_the_teacher_reads(data)
        _check_classes(model.classes, data.classes)
    if not 2 <= len(model.modalities) <= MOST_MODALITIES:
        return None
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(devices=1, enable_model_summary=False, **quiet)  # type: ignore[arg-type]
    return contributions(model, data, task, split, trainer)


def _check_classes(theirs: Sequence[str] | None, ours: Sequence[str]) -> None:
    """The labels are counted in the data's order of classes."""
    if theirs is None or tuple(theirs) == tuple(ours):
        return
    alike = set(theirs) == set(ours)
    raise TeacherError(
        where="the teacher",
        found="a model that has its classes in another order than the data"
        if alike
        else f"a model of {len(theirs)} classes that are not those of the data",
        expected="the classes of the data in their order; that of its answers alone can be changed",
        fix="compare the metrics instead" + (", or train a teacher on data in this order" if alike else ""),
    )


def unwrapped(teacher: Teacher) -> Teacher:
    """The teacher that answers, behind those that change something about it."""
    while isinstance(teacher, TeacherWrapper):
        teacher = teacher.teacher
    return teacher


def _as_the_teacher_reads(data: MultimodalDataModule) -> MultimodalDataModule:
    """The same source, prepared for the teacher."""
    if not data.teacher_processors:
        return data
    theirs = copy.copy(data)
    theirs.processors, theirs.teacher_processors = {**data.processors, **data.teacher_processors}, {}
    theirs._datasets = {}
    return theirs
