"""What student and teacher read: samples with nothing for them, the teacher's own inputs, other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_distill.errors import CheckpointError, SampleError, TeacherError
from lightning_distill.module import DistillationModule
from lightning_distill.randomness import View
from lightning_distill.structures import Batch, ModelOutput
from lightning_distill.teachers import FrozenTeacher
from tests.builders import (
    DIMS,
    VectorProcessor,
    VectorSource,
    make_batch,
    make_data,
    make_model,
    make_trainer,
)
from tests.module.parts import make_module, supervised


def loader(batch: Batch) -> Any:
    return DataLoader([batch], batch_size=None)  # type: ignore[list-item]


@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_X2_a_sample_with_nothing_for_the_student_is_named(tmp_path: Path, stage: str) -> None:
    batch, trainer = make_batch(absent={"a": [1, 3]}), make_trainer(tmp_path)
    with pytest.raises(
        SampleError, match=r"samples \[1001, 1003\]: found none of the modalities the student"
    ):
        getattr(trainer, stage)(make_module(), loader(batch))


def test_X2_a_sample_with_nothing_for_the_teacher_is_named(tmp_path: Path) -> None:
    batch = make_batch(absent={"b": [2]})
    module = make_module(make_model(("b",)))
    with pytest.raises(
        SampleError, match=r"samples \[1002\]: found none of the modalities the teacher reads: b"
    ):
        make_trainer(tmp_path).fit(module, loader(batch))
    make_trainer(tmp_path).predict(module, loader(batch))  # which does not ask the teacher


class Doubled(VectorProcessor):
    """Other preprocessing for the teacher."""

    def prepare(self, raw: NDArray[np.float64], view: View | None = None) -> Tensor:
        return 2 * super().prepare(raw, view)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"factor": 2}


class Listening(FrozenTeacher):
    """Keeps the batches it is given."""

    def __call__(self, batch: Batch) -> ModelOutput:
        self.heard: list[Batch] = [*getattr(self, "heard", []), batch]
        return super().__call__(batch)


def test_the_teacher_reads_its_own_inputs(tmp_path: Path) -> None:
    teacher = Listening(make_model())
    module, processors = supervised(teacher=teacher), {"a": Doubled(DIMS["a"])}
    trainer = make_trainer(tmp_path)
    trainer.validate(module, make_data(teacher_processors=processors), verbose=False)
    plain = make_data()
    plain.setup("validate")
    for heard, batch in zip(teacher.heard, plain.val_dataloader(), strict=True):
        assert torch.equal(heard["inputs"]["a"], 2 * batch["inputs"]["a"])  # type: ignore[arg-type, operator]
        assert torch.equal(heard["inputs"]["b"], batch["inputs"]["b"])  # type: ignore[arg-type]


def test_a_teacher_trained_otherwise_is_refused_until_it_is_fed_so(tmp_path: Path) -> None:
    model = make_model()
    model.preprocessing = {"a": {"factor": 2}, "b": {}}
    with pytest.raises(TeacherError, match=r"modality 'a', factor.*add teacher_processors: \{a: \.\.\.\}"):
        make_trainer(tmp_path).fit(make_module(model), make_data())
    data = make_data(teacher_processors={"a": Doubled(DIMS["a"])})
    make_trainer(tmp_path).fit(make_module(model), data)


def test_a_modality_nothing_prepares_for_the_teacher(tmp_path: Path) -> None:
    data = make_data()
    del data.processors["b"]
    with pytest.raises(TeacherError, match=r"found none for \['b'\], which the teacher reads"):
        make_trainer(tmp_path).fit(make_module(), data)


def test_preprocessing_is_recorded_by_fit_for_what_the_student_reads(tmp_path: Path) -> None:
    data = make_data()
    data.processors["a"] = Doubled(DIMS["a"])
    module = make_module()
    make_trainer(tmp_path).validate(module, data, verbose=False)
    assert module.student.preprocessing is None
    make_trainer(tmp_path).fit(module, data)
    assert module.student.preprocessing == {"a": {"factor": 2}}


class Renamed(VectorSource):
    """The same samples; classes called otherwise."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    trainer = make_trainer(tmp_path)
    trainer.fit(supervised(), make_data())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    return tmp_path / "c.ckpt"


def test_L6_resuming_with_other_classes_is_refused(checkpoint: Path) -> None:
    trainer = make_trainer(checkpoint.parent, max_epochs=2)
    with pytest.raises(CheckpointError, match=r"class 1: found 'cat' in the data, which was 'bee'"):
        trainer.fit(supervised(), make_data(Renamed(["ant", "cat", "bee"])), ckpt_path=str(checkpoint))
    assert trainer.global_step == 0


def test_L6_the_checkpoint_holds_the_classes_and_the_same_ones_go_on(checkpoint: Path) -> None:
    assert torch.load(checkpoint, weights_only=True)["classes"] == ["ant", "bee", "cat"]
    trainer = make_trainer(checkpoint.parent, max_epochs=2)
    trainer.fit(supervised(), make_data(), ckpt_path=str(checkpoint))
    assert trainer.current_epoch == 2


def test_a_checkpoint_can_be_loaded_where_nothing_is_resumed(checkpoint: Path) -> None:
    data = make_data(Renamed(["x", "y", "z"]))
    make_trainer(checkpoint.parent).validate(supervised(), data, ckpt_path=str(checkpoint), verbose=False)
    module = DistillationModule.load_from_checkpoint(checkpoint, student=make_model(), weights_only=True)
    assert module.student.classes is None
