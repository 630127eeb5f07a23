"""The student that is saved at the end of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_distill import load_student
from lightning_distill.callbacks import StudentExport
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import FrozenTeacher
from tests.builders import DIMS, make_data, make_model, make_trainer, weights_of

CONFIG = {
    "class_path": "lightning_distill.MultimodalModel",
    "init_args": {
        "num_classes": 3,
        "encoders": {
            m: {"class_path": "tests.builders.VectorEncoder", "init_args": {"dim": d}}
            for m, d in DIMS.items()
        },
    },
}


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_best_checkpoints_student_or_the_one_there_is(tmp_path: Path, checkpointing: bool) -> None:
    module = DistillationModule(make_model(), teacher=FrozenTeacher(make_model()))
    # The worst epoch is best here, so that best and last differ.
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss", mode="max")
    callbacks = [StudentExport(tmp_path / "student", CONFIG), *([best] if checkpointing else [])]
    trainer = make_trainer(tmp_path, max_epochs=3, enable_checkpointing=checkpointing, callbacks=callbacks)
    trainer.fit(module, datamodule=make_data())
    after = weights_of(module.student)
    loaded = load_student(tmp_path / "student", packages=["tests"])
    assert loaded.classes == module.student.classes
    assert loaded.preprocessing == {m: {} for m in DIMS}
    wanted = after
    if checkpointing:
        state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
        wanted = {name: state[f"student.{name}"] for name in after}
        assert not torch.equal(wanted["head.weight"], after["head.weight"])
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in weights_of(loaded).items())
    # Exporting does not touch the module.
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights_of(module.student).items())


def test_a_trial_run_saves_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, fast_dev_run=True, callbacks=[StudentExport(tmp_path / "student", CONFIG)]
    )
    trainer.fit(DistillationModule(make_model()), datamodule=make_data())
    assert not (tmp_path / "student").exists()
