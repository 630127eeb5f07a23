"""What must hold before and during training, each as one function that raises a clear error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import nn

from lightning_distill.errors import (
    CheckpointError,
    ConfigError,
    SampleError,
    TeacherError,
    nearest,
)
from lightning_distill.guards.teacher_guard import nothing_shared as nothing_shared
from lightning_distill.guards.teacher_guard import nothing_stepped as nothing_stepped
from lightning_distill.losses import DistillationLoss
from lightning_distill.model import MultimodalModel
from lightning_distill.parity import preprocessing_fits as preprocessing_fits
from lightning_distill.schedules import Schedule
from lightning_distill.structures import Batch
from lightning_distill.tasks import Task
from lightning_distill.teachers import ClassesByName, Teacher
from lightning_distill.terms import TASK, UNIMODAL

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


_MEANING = {TASK: "task's own loss", UNIMODAL: "loss of the unimodal heads"}


def terms_fit(
    losses: Mapping[str, nn.Module],
    weights: Mapping[str, float | Schedule],
    taught: bool,
    own: Sequence[str],
) -> None:
    """Most terms need a teacher, weights need a term, and some weight must be above 0.

    Args:
        losses: Name -> distillation term.
        weights: Name -> weight.
        taught: Whether there is a teacher.
        own: Names of the terms that need none.
    """
    for name in own:
        if name in losses:
            raise ConfigError(
                where="DistillationModule.losses",
                found=f"a term called {name!r}",
                expected=f"another name: {name!r} is the {_MEANING[name]}",
                fix="rename the term, for example to 'kd'",
            )
    needing = [name for name, loss in losses.items() if getattr(loss, "needs_teacher", True)]
    if needing and not taught:
        raise ConfigError(
            where="DistillationModule.losses",
            found=f"distillation terms {needing} and no teacher",
            expected="a teacher",
            fix="add `teacher`, or remove `losses` for plain supervised training",
        )
    names = [*own, *losses]
    for name, weight in weights.items():
        if name == UNIMODAL and name not in names:
            raise ConfigError(
                where="DistillationModule.weights",
                found="a weight for 'unimodal' and a student without unimodal heads",
                expected="heads whose loss it weighs",
                fix="set `unimodal_heads: true` on the student, or drop the weight",
            )
        if name not in names:
            raise ConfigError(
                where="DistillationModule.weights",
                found=f"a weight for {name!r}{nearest(name, names)}",
                expected=f"weights for terms among {names}",
                fix="name the weight as the term in `losses`",
            )
        if not isinstance(weight, Schedule) and not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                where=f"DistillationModule.weights[{name!r}]",
                found=weight,
                expected="a finite number of 0 or more",
                fix="Hinton's alpha is {task: 1 - alpha, kd: alpha} with alpha between 0 and 1",
            )
    if all(weights.get(name, 1.0) == 0 for name in names):
        raise ConfigError(
            where="DistillationModule.weights",
            found="every weight is 0",
            expected="some term to train on",
            fix="raise a weight",
        )


def terms_fit_task(losses: Mapping[str, DistillationLoss], task: Task) -> None:
    """A term on the logits must take them for what they are."""
    for name, loss in losses.items():
        if task.outputs not in loss.suits:
            wanted = ", or ".join(sorted(outputs.value for outputs in loss.suits))
            raise ConfigError(
                where=f"DistillationModule.losses[{name!r}]",
                found=f"{type(loss).__name__} with the task {type(task).__name__}, whose outputs are "
                f"{task.outputs.value}",
                expected=f"a term for such outputs; {type(loss).__name__} is for {wanted}",
                fix=f"remove {name!r}, or take LogitKD for classes, MultilabelKD for labels, "
                "RegressionKD for numbers",
            )


def target_fits(task: Task, datamodule: Any, num_outputs: int) -> None:
    """The data must hold targets of the task's kind; a DataModule that does not tell is not looked at."""
    target = getattr(getattr(getattr(datamodule, "source", None), "samples", None), "target", None)
    if target is not None:
        task.check(torch.tensor(target[:1]), num_outputs)


def classes_fit(
    student: MultimodalModel, teacher: Teacher | None, classes: Sequence[str] | None
) -> Teacher | None:
    """Student and data must have the same classes, and the teacher must have them too.

    Tells the student their names.

    Returns:
        The teacher to use: where it names its classes in another order, or has more of them, one that
        answers in the student's order.
    """
    if classes is not None:
        if len(classes) != student.num_classes:
            raise ConfigError(
                where="MultimodalModel.num_classes",
                found=student.num_classes,
                expected=f"{len(classes)}, the number of classes in the data: {_some(classes)}",
                fix=f"set the student's num_classes to {len(classes)}",
            )
        student.classes = tuple(classes)
    if teacher is None:
        return None
    if teacher.classes and student.classes and teacher.classes != student.classes:
        by_name = ClassesByName(teacher, student.classes)
        more = len(teacher.classes) - len(student.classes)
        rank_zero_info(
            f"teacher: its classes are put into the student's order by name, {_some(student.classes)}"
            + (f"; {more} others are left out" if more else "")
        )
        return by_name
    if teacher.num_classes != student.num_classes:
        raise TeacherError(
            where="teacher and student",
            found=f"a teacher with {teacher.num_classes} classes and a student with {student.num_classes}",
            expected="the same classes, or names for the classes of both",
            fix="give the teacher's `classes`, so that the student's are found among them by name",
        )
    return teacher


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")


def same_classes_as_before(then: Sequence[str] | None, now: Sequence[str] | None) -> None:
    """A training that goes on must have the classes it began with, in the same order."""
    if not then or not now or list(then) == list(now):
        return
    at, (before, after) = next((i, p) for i, p in enumerate(zip_longest(then, now)) if p[0] != p[1])
    raise CheckpointError(
        where=f"checkpoint, class {at}",
        found=f"{after!r} in the data, which was {before!r} when the checkpoint was made",
        expected=f"the same classes in the same order: {_some(then)}",
        fix="give the data source `classes` in that order, or start a new run",
    )


def all_can_be_read(batch: Batch, readers: Mapping[str, Sequence[str]]) -> None:
    """Each sample must have a modality each model reads. On a GPU the model's own assertion says so.

    Args:
        batch: On any device; looked at on the CPU only, since elsewhere that would cost a synchronisation.
        readers: "student" and "teacher" -> modalities.
    """
    whole: set[str] = set()  # student and teacher mostly share what no sample lacks
    for who, modalities in readers.items():
        masks = {m: batch["present"][m] for m in modalities if m in batch["present"]}
        if not masks or not whole.isdisjoint(masks) or next(iter(masks.values())).device.type != "cpu":
            continue
        whole.update(next(([m] for m, mask in masks.items() if bool(mask.all())), []))
        if not whole.isdisjoint(masks):
            continue
        empty = ~torch.stack(list(masks.values()), dim=1).any(dim=1)
        if bool(empty.any()):
            ids = batch["sample_id"][empty].tolist()
            raise SampleError(
                where=f"samples {ids[:8]}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else ""),
                found=f"none of the modalities the {who} reads: {', '.join(modalities)}",
                expected="at least one in each sample",
                fix=f"leave those samples out, or give the {who} an encoder for what they have",
            )


def one_balancer(of_terms: object, of_gradients: object) -> None:
    """Refuse two balancers: the second would undo what the first has done.

    Raises:
        ConfigError: If both are given.
    """
    if of_terms is not None and of_gradients is not None:
        raise ConfigError(
            where="DistillationModule.gradient_balancer",
            found=f"{type(of_gradients).__name__} beside a balancer of terms",
            expected="one of the two",
            fix="remove `balancer` or `gradient_balancer`",
        )


def shards(trainer: Trainer) -> bool:
    """Whether the strategy splits parameters over processes, so that none has them whole."""
    strategy = type(trainer.strategy).__name__.lower()
    return any(word in strategy for word in ("fsdp", "deepspeed", "modelparallel"))
