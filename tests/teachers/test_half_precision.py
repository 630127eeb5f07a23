"""A teacher in bfloat16."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.encoders import ImageCNN
from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.losses import Hint
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch
from lightning_distill.teachers import (
    AveragedTeacher,
    ForeignTeacher,
    FrozenTeacher,
    HalfPrecisionTeacher,
    StoredTeacher,
    Teacher,
)
from tests.builders import make_batch, make_data, make_model, make_trainer, same_bits
from tests.module.parts import distilling
from tests.teachers.test_contract import folder_of, stored


def sure(model: MultimodalModel) -> MultimodalModel:
    """The same with logits a hundred times as large, so that half precision seldom changes the class."""
    with torch.no_grad():
        model.head.weight.mul_(100)
        model.head.bias.mul_(100)
    return model


class Seen(nn.Module):
    """Notes what it computes in, and how what it reads is laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.notes: list[tuple[torch.dtype, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        made = torch.ones(1)  # what a model makes by itself has the default type
        assert made.dtype == torch.float32
        hidden = self.convolution(self.first(x.float() / 255))
        channels_last = hidden.is_contiguous(memory_format=torch.channels_last)
        self.notes.append((hidden.dtype, channels_last))
        return self.linear(hidden.mean(dim=(2, 3)))


def test_it_computes_in_bfloat16_and_channels_last_and_answers_in_float32() -> None:
    model, batch = Seen(), make_batch(("image",))
    teacher = HalfPrecisionTeacher(ForeignTeacher(model, "image", 3), agreement=0.0)
    teacher.read_layers(["convolution"])
    first, second = teacher(batch), teacher(batch)
    half, full = (torch.bfloat16, True), (torch.float32, True)
    assert model.notes == [half, full, half]  # the first batch twice
    for output in (first, second):
        assert output.logits.dtype == output.layers["convolution"].dtype == torch.float32
        assert output.layers["convolution"].is_contiguous()
    assert same_bits(first.logits, second.logits)
    exact = model(batch["inputs"]["image"])
    assert not torch.equal(second.logits, exact)
    torch.testing.assert_close(second.logits, exact, rtol=0.05, atol=0.02)


def test_agreement_is_said_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    teacher, batch = HalfPrecisionTeacher(FrozenTeacher(sure(make_model())), 0.5), make_batch(size=32)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            teacher(batch)
        teacher.begin(make_model())
        teacher(batch)
    said = [r.getMessage() for r in caplog.records if "bfloat16" in r.getMessage()]
    assert len(said) == 2
    logits = FrozenTeacher(teacher.teacher.model)(batch).logits  # type: ignore[attr-defined]
    answers = teacher(batch).logits
    share = (logits.argmax(dim=1) == answers.argmax(dim=1)).float().mean().item()
    assert f"{share:.1%} of 32 samples" in said[0]
    assert f"at most {(logits - answers).abs().max().item():.2g} apart" in said[0]


class Torn(nn.Module):
    """Another class in half precision than in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.linear(x)
        return -found if found.dtype == torch.bfloat16 else found


def test_disagreement_is_an_error_that_says_what_to_do() -> None:
    teacher = HalfPrecisionTeacher(ForeignTeacher(Torn(), "a", 3))
    with pytest.raises(TeacherError, match=r"same class for 0\.0% of 4 .*expected the same class for 99\.0%"):
        teacher(make_batch())
    with pytest.raises(TeacherError, match="lower its `agreement`"):
        teacher(make_batch())


class Overflowing(Torn):
    """NaN in half precision, as after an overflow; class 0 is the likeliest in both."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.linear(x)
        return (
            torch.full_like(found, torch.nan)
            if found.dtype == torch.bfloat16
            else -torch.arange(3.0) + 0 * found
        )


def test_nan_is_no_agreement() -> None:
    with pytest.raises(TeacherError, match=r"same class for 0\.0%"):
        HalfPrecisionTeacher(ForeignTeacher(Overflowing(), "a", 3))(make_batch())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_agreement_must_be_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match="a share between 0 and 1"):
        HalfPrecisionTeacher(FrozenTeacher(make_model()), share)


def test_a_teacher_without_weights_is_refused() -> None:
    teacher = HalfPrecisionTeacher(StoredTeacher(folder_of(stored)))
    with pytest.raises(TeacherError, match="StoredTeacher, which has no weights"):
        teacher(make_batch())


def test_a_group_inside() -> None:
    parts: list[Teacher] = [FrozenTeacher(make_model()), FrozenTeacher(make_model())]
    group, batch = AveragedTeacher(parts), make_batch()
    plain, teacher = group(batch), HalfPrecisionTeacher(group, 0.0)
    teacher.read_layers(["0.encoders.a"])
    found = teacher(batch)
    assert found.logits.dtype == found.layers["0.encoders.a"].dtype == torch.float32
    torch.testing.assert_close(found.logits, plain.logits, rtol=0.05, atol=0.05)
    assert not same_bits(found.logits, plain.logits)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_the_precision_of_the_student_plays_no_part(tmp_path: Path, precision: Any) -> None:
    answers: list[Tensor] = []

    class Noting(HalfPrecisionTeacher):
        def __call__(self, batch: Batch) -> Any:
            output = super().__call__(batch)
            answers.append(output.logits)
            return output

    teacher = Noting(FrozenTeacher(make_model()), 0.0)
    module = distilling(teacher, losses={"hint": Hint("features.a", "encoders.a")})
    trainer = make_trainer(tmp_path, precision=precision, limit_val_batches=0)
    trainer.fit(module, make_data())
    assert trainer.global_step == 4
    assert {x.dtype for x in answers} == {torch.float32}
    assert {t.dtype for t in teacher.tensors() if t.is_floating_point()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_images_of_our_own_model() -> None:
    model = sure(MultimodalModel({"image": ImageCNN()}, 3))
    batch = make_batch(("image",), size=16)
    plain = FrozenTeacher(model)(batch)
    found = HalfPrecisionTeacher(FrozenTeacher(model), 0.5)(batch)
    assert found.embedding is not None
    assert found.features["image"].dtype == found.embedding.dtype == torch.float32
    torch.testing.assert_close(found.embedding, plain.embedding, rtol=0.1, atol=0.1)
