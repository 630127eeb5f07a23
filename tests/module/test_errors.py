"""What must stop training, with a message that helps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError, NonFiniteError, SampleError, TeacherError
from lightning_distill.losses import DistillationLoss, LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher
from tests.builders import CLASSES, VectorSource, make_data, make_model, make_trainer
from tests.module.parts import Steps, make_module, supervised


@pytest.mark.parametrize("workers", [0, 1])
def test_non_finite_loss_stops_on_its_step_before_the_update(tmp_path: Path, workers: int) -> None:
    source = VectorSource(broken=[17])
    module, steps = make_module(), Steps()
    trainer = make_trainer(tmp_path, callbacks=[steps], max_epochs=2)
    with pytest.raises(NonFiniteError) as caught:
        trainer.fit(module, make_data(source, batch_size=4, num_workers=workers))
    order = make_data(source, batch_size=4)
    order.setup("fit")
    first = next(i for i, batch in enumerate(order.train_dataloader()) if 5017 in batch["sample_id"])
    assert first > 0
    assert trainer.global_step == first
    assert f"step {first}" in caught.value.where
    assert "5017" in caught.value.found
    assert "nan" in caught.value.found
    assert len(steps.weights) == first + 1
    assert torch.equal(Steps.flat(module), steps.weights[-1])
    assert Steps.flat(module).isfinite().all()
    assert caught.value.exit_code == 5


class Broken(DistillationLoss):
    """Infinite."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return student.logits.sum() * float("inf")


def test_non_finite_loss_names_the_term(tmp_path: Path) -> None:
    module = make_module(losses={"kd": LogitKD(), "odd": Broken()})
    with pytest.raises(NonFiniteError) as caught:
        make_trainer(tmp_path).fit(module, make_data())
    assert "'odd': " in caught.value.found
    assert "'kd'" not in caught.value.found
    assert "'task'" not in caught.value.found


def test_a_term_of_weight_0_cannot_spoil_the_loss(tmp_path: Path) -> None:
    module = make_module(losses={"kd": LogitKD(), "odd": Broken()}, weights={"odd": 0.0})
    make_trainer(tmp_path).fit(module, make_data())
    assert Steps.flat(module).isfinite().all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_about_a_sample_keeps_its_type_and_fields(tmp_path: Path, workers: int) -> None:
    class Unreadable(VectorSource):
        def load(self, modality: str, row: int) -> Any:
            if row == 9:
                raise SampleError(where="row 9", found="noise", expected="a vector", fix="repair it")
            return super().load(modality, row)

    with pytest.raises(SampleError) as caught:
        make_trainer(tmp_path).fit(make_module(), make_data(Unreadable(), num_workers=workers))
    assert (caught.value.where, caught.value.fix) == ("row 9", "repair it")


def fit_once(tmp_path: Path, module: DistillationModule) -> None:
    make_trainer(tmp_path).fit(module, make_data())


def test_student_must_have_the_classes_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_classes: found 5; expected 3.*ant, bee, cat"):
        fit_once(tmp_path, supervised(student=make_model(classes=5)))


def test_teacher_must_have_as_many_classes(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="a teacher with 4 classes and a student with 3"):
        fit_once(tmp_path, make_module(make_model(classes=4)))


@pytest.mark.row("S1")
def test_teacher_must_have_every_class_of_the_student(tmp_path: Path) -> None:
    model = make_model()
    model.classes = ("ant", "bee", "cot")
    with pytest.raises(TeacherError, match="without the class 'cat'; did you mean 'cot'"):
        fit_once(tmp_path, make_module(model))


def test_student_learns_the_names_of_its_classes(tmp_path: Path) -> None:
    model = make_model()
    model.classes = CLASSES
    module = make_module(model)
    fit_once(tmp_path, module)
    assert module.student.classes == CLASSES


@pytest.mark.row("S6")
def test_shared_tensors_are_refused(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(TeacherError, match=r"shared tensors, such as 'student\."):
        fit_once(tmp_path, make_module(model, student=model))
    student, teacher = make_model(("a",)), make_model()
    student.encoders["a"] = teacher.encoders["a"]
    with pytest.raises(TeacherError, match=r"student\.encoders\.a\."):
        fit_once(tmp_path, make_module(teacher, student=student))
    fit_once(tmp_path, make_module(copy.deepcopy(model), student=make_model()))


TEACHER = FrozenTeacher(make_model())
WRONG: list[Any] = [
    pytest.param({"teacher": None}, "no teacher", id="terms without a teacher"),
    pytest.param({"losses": {"task": LogitKD()}}, "a term called 'task'", id="a term called task"),
    pytest.param({"weights": {"kdd": 1.0}}, "did you mean 'kd'", id="a weight without a term"),
    pytest.param({"weights": {"kd": -1.0}}, "0 or more", id="negative"),
    pytest.param({"weights": {"kd": float("nan")}}, "0 or more", id="nan"),
    pytest.param({"weights": {"task": float("inf")}}, "0 or more", id="infinite"),
    pytest.param({"weights": {"task": 0.0, "kd": 0.0}}, "every weight is 0", id="nothing left"),
]


def test_a_loss_that_only_overflows_as_a_sum_is_explained(tmp_path: Path) -> None:
    module = make_module(weights={"task": 3e38, "kd": 3e38})
    with pytest.raises(NonFiniteError, match=r"loss inf from terms \{'task': \d"):
        make_trainer(tmp_path).fit(module, make_data())


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_contradictions_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DistillationModule(
            **({"student": make_model(), "teacher": TEACHER, "losses": {"kd": LogitKD()}} | options)
        )
