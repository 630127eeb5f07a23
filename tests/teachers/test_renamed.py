"""Classes of a teacher, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_distill.errors import TeacherError
from lightning_distill.teachers import ClassesByName, FrozenTeacher
from tests.builders import CLASSES, make_batch, make_data, make_model, make_trainer
from tests.module.parts import distilling

MANY = ("dog", "cat", "ant", "bee")


def teacher_of(classes: tuple[str, ...] | None) -> FrozenTeacher:
    model = make_model(classes=len(classes or CLASSES))
    model.classes = classes
    return FrozenTeacher(model)


def test_logits_are_reordered_and_selected() -> None:
    teacher, batch = teacher_of(MANY), make_batch()
    teacher.read_layers(["head"])
    named = ClassesByName(teacher, CLASSES)
    before, after = teacher(batch), named(batch)
    assert torch.equal(after.logits, before.logits[:, [2, 3, 1]])
    assert torch.equal(after.at("embedding"), before.at("embedding"))
    assert torch.equal(after.at("head"), before.at("head"))
    assert (named.num_classes, named.classes, named.requirements) == (3, CLASSES, teacher.requirements)


def test_other_words_for_the_same_classes() -> None:
    teacher, batch = teacher_of(MANY), make_batch()
    named = ClassesByName(teacher, ["hound", "ant"], {"hound": "dog"})
    assert torch.equal(named(batch).logits, teacher(batch).logits[:, [0, 2]])


def test_mistakes() -> None:
    with pytest.raises(TeacherError, match="without the class 'cot'; did you mean 'cat'"):
        ClassesByName(teacher_of(MANY), ["ant", "cot"])
    with pytest.raises(TeacherError, match=r"`names` for 'hond', .* did you mean 'hound'"):
        ClassesByName(teacher_of(MANY), ["hound"], {"hond": "dog"})
    with pytest.raises(TeacherError, match="does not name its classes"):
        ClassesByName(teacher_of(None), ["ant"])


@pytest.mark.parametrize("classes", [CLASSES[::-1], MANY])
def test_training_does_it_by_itself_once(tmp_path: Path, classes: tuple[str, ...]) -> None:
    plain = teacher_of(classes)
    module, trainer = distilling(plain), make_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, make_data())
    trainer.validate(module, make_data(), verbose=False)
    assert isinstance(module.teacher, ClassesByName)
    assert module.teacher.teacher is plain
    batch = make_batch()
    expected = plain(batch).logits[:, [classes.index(name) for name in CLASSES]]
    assert torch.equal(module.teacher(batch).logits, expected)


def test_the_same_order_stays_as_it_is(tmp_path: Path) -> None:
    plain = teacher_of(CLASSES)
    module = distilling(plain)
    make_trainer(tmp_path).fit(module, make_data())
    assert module.teacher is plain
