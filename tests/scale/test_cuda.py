"""What needs a CUDA device: FSDP1, and a teacher that is elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_distill.losses import LogitKD
from lightning_distill.module import DistillationModule
from lightning_distill.teachers import FrozenTeacher, PlacedTeacher
from tests.builders import make_batch, make_data, make_model, make_trainer
from tests.module.parts import Each, distilling
from tests.scale.two_ranks import make_plain, make_teacher

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_student_and_teacher_on_different_devices(tmp_path: Path) -> None:
    teacher = PlacedTeacher(FrozenTeacher(make_model()), "cpu")
    module = distilling(teacher)
    seen: set[tuple[str, str]] = set()

    def look() -> None:
        student = next(module.student.parameters()).device.type
        seen.update((student, t.device.type) for t in teacher.tensors())

    make_trainer(tmp_path, accelerator="gpu", callbacks=[Each(look)]).fit(module, make_data())
    assert seen == {("cuda", "cpu")}
    found = teacher(module.transfer_batch_to_device(make_batch(), torch.device("cuda"), 0))
    assert found.logits.device.type == found.features["a"].device.type == "cuda"


@pytest.mark.row("D8")
@pytest.mark.hardware
def test_fsdp1_trains_as_one_device_does(tmp_path: Path) -> None:
    found = []
    for strategy in ("auto", "fsdp"):
        torch.manual_seed(1)
        module = DistillationModule(make_plain("a"), make_teacher(), {"kd": LogitKD()})
        trainer = make_trainer(tmp_path, accelerator="gpu", strategy=strategy)
        trainer.fit(module, make_data())
        found.append(float(trainer.callback_metrics["val/task"]))
    assert found[0] == pytest.approx(found[1], abs=1e-4)
