"""A teacher on a device of its own, and what the wrappers of large teachers refuse."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.teachers import (
    AveragedTeacher,
    EmaTeacher,
    FrozenTeacher,
    PlacedTeacher,
    ShardedTeacher,
)
from tests.builders import make_batch, make_model, same_bits


def test_it_answers_as_the_teacher_and_stays() -> None:
    model, batch = make_model(), make_batch()
    placed, plain = PlacedTeacher(FrozenTeacher(model), "cpu"), FrozenTeacher(copy.deepcopy(model))
    placed.to(torch.device("meta"))  # a move would lose the weights
    assert {t.device.type for t in placed.tensors()} == {"cpu"}
    for teacher in (placed, plain):
        teacher.read_layers(["encoders.a.linear"])
    assert same_bits(placed(batch).logits, plain(batch).logits)
    assert same_bits(placed(batch).at("encoders.a.linear"), plain(batch).at("encoders.a.linear"))


@pytest.mark.parametrize("device", ["cuda:99", "meta", "gpu", "cpu:x"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=r"PlacedTeacher.device: found .*cannot be used here"):
        PlacedTeacher(FrozenTeacher(make_model()), device)


def test_a_sharded_teacher_in_one_process_is_whole() -> None:
    model, batch = make_model(), make_batch()
    expected = FrozenTeacher(copy.deepcopy(model))(batch)
    teacher = ShardedTeacher(FrozenTeacher(model), "bfloat16")
    teacher.to(torch.device("cpu"))
    found = teacher(batch)
    assert {t.dtype for t in teacher.tensors() if t.is_floating_point()} == {torch.bfloat16}
    assert found.logits.dtype == found.features["a"].dtype == torch.float32
    torch.testing.assert_close(found.logits, expected.logits, atol=0.05, rtol=0)


def test_what_cannot_be_sharded() -> None:
    frozen = FrozenTeacher(make_model())
    for teacher in (AveragedTeacher([frozen]), EmaTeacher()):
        with pytest.raises(TeacherError, match=type(teacher).__name__):
            ShardedTeacher(teacher)
    with pytest.raises(ConfigError, match="did you mean 'encoders'"):
        ShardedTeacher(frozen, "float32", ["encoder"])
