"""What every teacher must do, whichever file it is in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lightning_distill.knowledge_writing import write_knowledge
from lightning_distill.teachers import (
    AveragedTeacher,
    CachedTeacher,
    ClassesByName,
    ConfidentTeacher,
    EmaTeacher,
    ForeignTeacher,
    FrozenTeacher,
    HalfPrecisionTeacher,
    ModalityTeachers,
    PlacedTeacher,
    ShardedTeacher,
    StoredTeacher,
    Teacher,
    TimmTeacher,
    TransformersTeacher,
)
from tests.builders import CLASSES, DIMS, make_batch, make_data, make_model, same_bits
from tests.shelves import concrete
from tests.teachers.test_foreign import save_classifier

TEACHERS = pytest.mark.parametrize("cls", concrete("teachers"))


def make_teacher(cls: Any) -> Teacher:
    """One that answers a batch of vectors, images and texts in three classes."""
    return MADE[cls]()


def folder_of(save: Callable[[Path], Path]) -> Path:
    return save(Path(mkdtemp(dir=os.environ["LIGHTNING_DISTILL_CACHE"])) / "model")


def opened(teacher: CachedTeacher) -> Teacher:
    teacher.open(make_data(views=1), ["train"])
    return teacher


def begun() -> Teacher:
    teacher = EmaTeacher()
    teacher.begin(make_model())
    return teacher


def frozen(*modalities: str) -> FrozenTeacher:
    model = make_model(modalities or tuple(DIMS))
    model.classes = CLASSES
    return FrozenTeacher(model)


def timm_folder(folder: Path) -> Path:
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def stored(folder: Path) -> Path:
    write_knowledge(frozen(), [make_batch()], folder)
    return folder


MADE: dict[Any, Callable[[], Teacher]] = {
    FrozenTeacher: frozen,
    EmaTeacher: begun,
    ForeignTeacher: lambda: ForeignTeacher(nn.Linear(DIMS["a"], 3), "a", 3, embedding=None),
    TimmTeacher: lambda: TimmTeacher(weights=folder_of(timm_folder), channels=1),
    TransformersTeacher: lambda: TransformersTeacher(str(folder_of(save_classifier))),
    AveragedTeacher: lambda: AveragedTeacher([frozen(), frozen()]),
    ConfidentTeacher: lambda: ConfidentTeacher([frozen(), frozen()]),
    ModalityTeachers: lambda: ModalityTeachers({"a": frozen("a"), "b": frozen("b")}),
    StoredTeacher: lambda: StoredTeacher(folder_of(stored)),
    ClassesByName: lambda: ClassesByName(frozen(), CLASSES[::-1]),
    CachedTeacher: lambda: opened(
        CachedTeacher(frozen, Path(mkdtemp(dir=os.environ["LIGHTNING_DISTILL_CACHE"])))
    ),
    HalfPrecisionTeacher: lambda: HalfPrecisionTeacher(frozen(), agreement=0.0),
    PlacedTeacher: lambda: PlacedTeacher(frozen(), "cpu"),
    ShardedTeacher: lambda: ShardedTeacher(frozen()),
}
"""How to make one of each; a new teacher is added here."""
ALL = ("a", "b", "image", "text")


@TEACHERS
def test_answers_without_gradient_and_always_the_same(cls: Any) -> None:
    teacher, batch = make_teacher(cls), make_batch(ALL)
    teacher.read_layers([])
    first, second = teacher(batch), teacher(batch)
    assert first.logits.shape == (4, teacher.num_classes)
    for output in (first, second):
        tensors = [output.logits, *output.features.values()]
        tensors += [] if output.embedding is None else [output.embedding]
        assert not any(t.requires_grad or t.is_inference() for t in tensors)
    assert same_bits(first.logits, second.logits)


def test_frozen_teacher_stays_without_gradient() -> None:
    model = make_model()
    teacher = FrozenTeacher(model)
    model.requires_grad_(True)
    with torch.enable_grad():
        output = teacher(make_batch())
    assert not output.logits.requires_grad
    assert not output.features["a"].requires_grad


@TEACHERS
def test_is_no_module(cls: Any) -> None:
    """What is in no module tree cannot reach optimizer, checkpoint or `train()`."""
    teacher = make_teacher(cls)
    holder = nn.Module()
    holder.teacher = teacher  # type: ignore[assignment]
    assert not isinstance(teacher, nn.Module)
    assert not list(holder.modules())[1:]
    assert not holder.state_dict()


@TEACHERS
def test_tells_its_tensors(cls: Any) -> None:
    tensors = list(make_teacher(cls).tensors())
    assert bool(tensors) == (cls is not StoredTeacher)
    assert not any(t.requires_grad for t in tensors)


@pytest.mark.parametrize("mode", ["whole", "part"])
def test_frozen_teacher_obeys_no_call_of_train(mode: str) -> None:
    model, batch = make_model(), make_batch()
    teacher = FrozenTeacher(model)
    before, answer = [t.clone() for t in teacher.tensors()], teacher(batch).logits
    (model if mode == "whole" else model.encoders["a"]).train()
    assert same_bits(teacher(batch).logits, answer)
    assert all(same_bits(a, b) for a, b in zip(before, teacher.tensors(), strict=True))
    assert not teacher.model.training
    assert not any(part.training for part in teacher.model.modules())


def test_frozen_teacher_knows_its_classes_and_what_it_reads() -> None:
    model = make_model()
    model.classes, model.preprocessing = CLASSES, {"a": {"dim": 6}}
    teacher = FrozenTeacher(model)
    assert (set(teacher.requirements), teacher.preprocessing) == ({"a", "b"}, {"a": {"dim": 6}})
    assert (teacher.num_classes, teacher.classes) == (len(CLASSES), CLASSES)
    assert not any(p.requires_grad for p in model.parameters())
