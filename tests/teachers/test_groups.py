"""Several teachers that answer as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.structures import Batch
from lightning_distill.teachers import (
    AveragedTeacher,
    ConfidentTeacher,
    ForeignTeacher,
    FrozenTeacher,
    ModalityTeachers,
    Teacher,
)
from tests.builders import CLASSES, DIMS, make_batch, make_model, same_bits


def linear(modality: str = "a", scale: float = 1.0, classes: tuple[str, ...] | None = None) -> ForeignTeacher:
    model = nn.Linear(DIMS[modality], 3)
    with torch.no_grad():
        model.weight.mul_(scale)
    return ForeignTeacher(model.double(), modality, 3, classes)


def doubled(batch: Batch) -> Batch:
    inputs = {m: x.double() for m, x in batch["inputs"].items() if isinstance(x, Tensor)}
    return {**batch, "inputs": inputs}  # type: ignore[typeddict-item]


def softmax(logits: Tensor) -> np.ndarray:
    raised = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_the_mean_of_probabilities() -> None:
    teachers, batch = [linear(), linear("b", 5.0)], doubled(make_batch())
    each = [softmax(t(batch).logits) for t in teachers]
    found = softmax(AveragedTeacher(teachers)(batch).logits)
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-12)
    found = softmax(AveragedTeacher(teachers, [3, 1])(batch).logits)
    np.testing.assert_allclose(found, 0.75 * each[0] + 0.25 * each[1], atol=1e-12)
    found = softmax(AveragedTeacher(teachers, [0, 2])(batch).logits)
    np.testing.assert_allclose(found, each[1], atol=1e-12)


def test_a_mean_of_extreme_answers_is_finite() -> None:
    sure = [linear(scale=1e4), linear(scale=-1e4)]
    logits = AveragedTeacher(sure)(doubled(make_batch(size=64))).logits
    assert not logits.isnan().any()
    assert logits.log_softmax(dim=1).amax(dim=1).isfinite().all()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="2 numbers of 0 or more"):
        AveragedTeacher([linear(), linear()], weights)


def test_the_sure_teacher_counts_more() -> None:
    teachers, batch = [linear(scale=0.1), linear("b", 3.0)], doubled(make_batch(size=16))
    each = np.stack([softmax(t(batch).logits) for t in teachers])
    entropy = -(each * np.log(each)).sum(axis=2)
    for tau in (0.2, 1.0):
        weight = np.exp(-entropy / tau) / np.exp(-entropy / tau).sum(axis=0)
        found = softmax(ConfidentTeacher(teachers, tau)(batch).logits)
        np.testing.assert_allclose(found, (weight[:, :, None] * each).sum(axis=0), atol=1e-12)
    surest = np.take_along_axis(each, entropy.argmin(axis=0)[None, :, None], axis=0)[0]
    found = softmax(ConfidentTeacher(teachers, 1e-6)(batch).logits)
    np.testing.assert_allclose(found, surest, atol=1e-9)
    with pytest.raises(ConfigError, match="a positive number of nats"):
        ConfidentTeacher(teachers, 0.0)


def test_only_the_teachers_whose_modality_is_there_are_heard() -> None:
    a, b = FrozenTeacher(make_model(("a",))), FrozenTeacher(make_model(("b",)))
    batch = make_batch(absent={"a": [0], "b": [1]})
    whole = {**batch, "present": {m: torch.ones(4, dtype=torch.bool) for m in DIMS}}
    for modality, row in (("a", 0), ("b", 1)):
        batch["inputs"][modality][row] = torch.nan  # type: ignore[index]
    alone = [a(whole), b(whole)]  # type: ignore[arg-type]
    output = ModalityTeachers({"a": a, "b": b})(batch)
    each = [softmax(x.logits) for x in alone]
    found = softmax(output.logits)
    np.testing.assert_allclose(found[0], each[1][0], atol=1e-6)
    np.testing.assert_allclose(found[1], each[0][1], atol=1e-6)
    np.testing.assert_allclose(found[2:], (each[0][2:] + each[1][2:]) / 2, atol=1e-6)
    assert output.embedding is not None
    assert torch.equal(output.embedding[0, :8], torch.zeros(8))
    assert torch.equal(output.at("features.b.b")[1], torch.zeros(8))
    assert torch.equal(output.at("features.b.b")[2:], alone[1].features["b"][2:])


def test_classes_are_matched_by_name() -> None:
    one, other = linear(classes=CLASSES), linear(classes=CLASSES[::-1])
    batch = doubled(make_batch())
    group = AveragedTeacher([one, other])
    assert group.classes == CLASSES
    expected = (softmax(one(batch).logits) + softmax(other(batch).logits)[:, ::-1]) / 2
    np.testing.assert_allclose(softmax(group(batch).logits), expected, atol=1e-12)
    with pytest.raises(TeacherError, match=r"teacher '1': found 3 classes, not all shared: \['cat', 'dog'\]"):
        AveragedTeacher([one, linear(classes=("ant", "bee", "dog"))])
    with pytest.raises(TeacherError, match="found 4 classes"):
        AveragedTeacher([one, FrozenTeacher(make_model(classes=4))])
    with pytest.raises(TeacherError, match="no teacher"):
        AveragedTeacher([])


def test_teachers_of_other_preprocessing_are_refused() -> None:
    teachers: list[Teacher] = []
    for dim in (1, 2):
        model = make_model()
        model.preprocessing = {"a": {"dim": dim}}
        teachers.append(FrozenTeacher(model))
    with pytest.raises(TeacherError, match=r"teacher '1', a\.dim: found 2; expected 1"):
        AveragedTeacher(teachers)


def test_embeddings_features_and_layers_of_a_group() -> None:
    one, other = FrozenTeacher(make_model(("a",))), FrozenTeacher(make_model(("a", "b")))
    group, batch = AveragedTeacher([one, other]), make_batch()
    group.read_layers(["embedding", "features.0.a", "0.encoders.a.linear", "1.encoders.b.linear"])
    output = group(batch)
    parts = [one(batch), other(batch)]
    assert torch.equal(output.at("embedding"), torch.cat([p.embedding for p in parts], dim=1))  # type: ignore[misc]
    assert torch.equal(output.at("features.0.a"), parts[0].features["a"])
    assert same_bits(output.at("0.encoders.a.linear"), parts[0].layers["encoders.a.linear"])
    assert same_bits(output.at("1.encoders.b.linear"), parts[1].layers["encoders.b.linear"])
    with pytest.raises(ConfigError, match=r"write 0\.encoders\.a"):
        group.read_layers(["encoders.a"])
    with pytest.raises(ConfigError, match="no module of that path"):
        group.read_layers(["0.encoders.z"])
    blind = ForeignTeacher(nn.Linear(DIMS["a"], 3), "a", 3)
    assert AveragedTeacher([one, blind])(batch).embedding is None


def test_what_a_group_reads_and_holds() -> None:
    group = AveragedTeacher([FrozenTeacher(make_model(("a",))), FrozenTeacher(make_model(("b",)))])
    assert set(group.requirements) == {"a", "b"}
    assert len(list(group.tensors())) == sum(len(list(t.tensors())) for t in group.teachers.values())
