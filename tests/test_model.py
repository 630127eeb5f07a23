"""The model: what is absent cannot matter, order, subsets, errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_distill.absence import drop_modalities
from lightning_distill.encoders import ByteTextCNN, Encoder, ImageCNN, LogMelCNN, TransformersTextEncoder
from lightning_distill.errors import ConfigError
from lightning_distill.export import load_student, save_student
from lightning_distill.feature_clipping import HardClip
from lightning_distill.fusion import (
    AttentionFusion,
    BottleneckFusion,
    ConcatFusion,
    GatedFusion,
    LearnedPlaceholders,
)
from lightning_distill.model import MultimodalModel
from lightning_distill.structures import Batch, Inputs
from tests.builders import DIMS, VectorEncoder, make_batch, make_model
from tests.encoders.pretrained import save_bert
from tests.shelves import build, concrete

HEADS = pytest.mark.parametrize("fusion", concrete("fusion"))
NAN = float("nan")
SIZE = 4


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_bert(tmp_path_factory.mktemp("bert")))


def spoil(inputs: Inputs, rows: Tensor, number: float, token: int) -> Inputs:
    """Other content in some rows: a number among floats, an integer among tokens, pixels and mask."""
    if isinstance(inputs, dict):
        return {
            k: v.masked_fill(rows[:, None], token % 2 if "mask" in k else token) for k, v in inputs.items()
        }
    value = number if inputs.is_floating_point() else token
    return inputs.masked_fill(rows.view(-1, *[1] * (inputs.ndim - 1)), value)


def spoiled(batch: Batch, number: float = NAN, token: int = 200) -> Batch:
    """The same batch with other content wherever a modality is absent."""
    inputs = {m: spoil(x, ~batch["present"][m], number, token) for m, x in batch["inputs"].items()}
    return {**batch, "inputs": inputs}  # type: ignore[typeddict-item]


def answer(model: MultimodalModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of every parameter; dropout drawn anew from one seed."""
    model.zero_grad()
    torch.manual_seed(5)
    logits = model(batch).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_answer(model: MultimodalModel, batch: Batch, other: Batch) -> None:
    (logits, grads), (logits_2, grads_2) = answer(model, batch), answer(model, other)
    assert logits.isfinite().all()
    assert torch.equal(logits, logits_2)
    assert grads.keys() == grads_2.keys()
    for name, grad in grads.items():
        assert grad.isfinite().all(), name
        assert torch.equal(grad, grads_2[name]), name


PARTS = {
    LearnedPlaceholders: {"init_args": {"fusion": {"class_path": "lightning_distill.fusion.GatedFusion"}}}
}
"""What a config must say of a head that takes others, as `build` makes it."""
ABSENT = {"image": [0], "text": [1, 2], "audio": [2, 3]}


@HEADS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("text", ["bytes", "bert"])
@pytest.mark.parametrize("token", [0, 1, 200])
def test_X1_what_is_absent_cannot_matter(
    fusion: Any, training: bool, text: str, token: int, bert: str
) -> None:
    """Logits and every gradient stay; token 0 and 200 also empty the attention mask, 1 fills it."""
    tokens = fusion.reads_tokens
    encoders: dict[str, Encoder] = {
        "image": ImageCNN(width=4, tokens=tokens),
        "text": ByteTextCNN(width=8, tokens=tokens)
        if text == "bytes"
        else TransformersTextEncoder(bert, tokens=tokens),
        "audio": LogMelCNN(width=4, tokens=tokens),
    }
    model = MultimodalModel(encoders, 3, partial(build, fusion), HardClip(1.0)).train(training)
    batch = make_batch(("image", "text", "audio"), SIZE, ABSENT)
    assert_same_answer(model, batch, spoiled(batch, NAN, token))


@HEADS
@given(
    rows=st.lists(st.sampled_from([1, 2, 3]), min_size=SIZE, max_size=SIZE),
    number=st.sampled_from([NAN, float("inf"), -3e38, 7.0]),
)
@settings(max_examples=10)
def test_X1_what_is_absent_cannot_matter_to_batch_statistics(
    fusion: Any, rows: list[int], number: float
) -> None:
    """Batch normalisation in train mode sees the whole batch, so content could leak through it."""
    torch.manual_seed(0)
    absent = {"a": [i for i, r in enumerate(rows) if r == 1], "b": [i for i, r in enumerate(rows) if r == 2]}
    model, batch = make_model(fusion=fusion).train(), make_batch(size=SIZE, absent=absent)
    assert_same_answer(model, batch, spoiled(batch, number))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


class TokenMean(Encoder):
    """Divides by the number of tokens, so that an empty mask gives NaN, as attention may."""

    def __init__(self) -> None:
        super().__init__(4)
        self.embed = nn.Embedding(256, 4)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs["attention_mask"][:, :, None]
        return (self.embed(inputs["input_ids"]) * mask).sum(dim=1) / mask.sum(dim=1)


@pytest.mark.parametrize("token", [0, 1])
def test_an_absent_text_may_have_an_empty_mask(token: int) -> None:
    model = MultimodalModel({"text": TokenMean(), "audio": LogMelCNN(width=4)}, 3)
    batch = make_batch(("text", "audio"), SIZE, {"text": [1, 2]})
    assert_same_answer(model, batch, spoiled(batch, NAN, token))


def test_presence_matters() -> None:
    model, batch = make_model().eval(), make_batch(size=SIZE)
    assert not torch.allclose(
        model(batch).logits, model(make_batch(size=SIZE, absent={"a": [0, 1, 2, 3]})).logits
    )


def test_features_of_absent_modalities_are_zero() -> None:
    model, batch = make_model().eval(), make_batch(size=SIZE, absent={"b": [1, 3]})
    features = model(spoiled(batch)).features
    assert (features["b"][[1, 3]] == 0).all()
    assert (features["b"][[0, 2]] != 0).any(dim=1).all()
    assert (features["a"] != 0).any(dim=1).all()


@HEADS
def test_rows_follow_the_batch(fusion: Any) -> None:
    model, batch = make_model(fusion=fusion).eval(), make_batch(size=SIZE, absent={"b": [1]})
    order = [2, 0, 3, 1]
    moved: Batch = {
        **batch,  # type: ignore[typeddict-item]
        "inputs": {m: x[order] for m, x in batch["inputs"].items()},  # type: ignore[index, misc]
        "present": {m: p[order] for m, p in batch["present"].items()},
    }
    torch.testing.assert_close(model(moved).logits, model(batch).logits[order])


def test_order_of_the_modalities_in_a_batch_does_not_matter() -> None:
    model, batch = make_model().eval(), make_batch(("a", "b"), SIZE)
    backwards: Batch = {
        **batch,  # type: ignore[typeddict-item]
        "inputs": dict(reversed(batch["inputs"].items())),
        "present": dict(reversed(batch["present"].items())),
    }
    assert torch.equal(model(backwards).logits, model(batch).logits)


def test_student_reads_its_part_of_the_teachers_batch() -> None:
    student, batch = make_model(("b",)).eval(), make_batch(("a", "b"), SIZE, {"a": [0, 1]})
    own: Batch = {**batch, "inputs": {"b": batch["inputs"]["b"]}}  # type: ignore[typeddict-item]
    assert student.modalities == ("b",)
    assert torch.equal(student(batch).logits, student(own).logits)
    assert torch.equal(student(spoiled(batch)).logits, student(batch).logits)


def test_does_not_change_its_batch() -> None:
    model, batch = make_model().train(), make_batch(size=SIZE, absent={"a": [0]})
    before = {m: x.clone() for m, x in batch["inputs"].items() if isinstance(x, Tensor)}
    model(batch)
    assert all(torch.equal(before[m], x) for m, x in batch["inputs"].items() if isinstance(x, Tensor))


def test_embedding_is_the_clipped_feature_and_the_head_reads_it() -> None:
    batch = make_batch(size=SIZE)
    clipped = make_model(feature_clip=HardClip(0.3)).eval()
    free = make_model().eval()
    free.load_state_dict(clipped.state_dict())
    output, unclipped = clipped(batch), free(batch)
    assert torch.equal(output.embedding, unclipped.embedding.clamp(-0.3, 0.3))
    assert torch.equal(output.logits, clipped.head(output.embedding))
    expected = (unclipped.embedding.abs() > 0.3).float().mean()
    assert output.extras["saturated_share"].item() == pytest.approx(expected.item())
    assert 0 < expected < 1
    assert not output.extras["saturated_share"].requires_grad
    assert unclipped.extras == {}


def test_fusion_gets_the_encoders_widths() -> None:
    asked: list[dict[str, int]] = []

    def fusion(widths: dict[str, int]) -> ConcatFusion:
        asked.append(widths)
        return ConcatFusion(widths)

    model = MultimodalModel({"a": VectorEncoder(DIMS["a"], 3), "b": VectorEncoder(DIMS["b"], 9)}, 5, fusion)
    assert asked == [{"a": 3, "b": 9}]
    assert model(make_batch(size=SIZE)).logits.shape == (SIZE, 5)


def test_a_modality_the_batch_lacks_is_named() -> None:
    model, batch = make_model(("a", "b")), make_batch(("b",))
    with pytest.raises(ConfigError, match=r"encoder 'a': found a batch with \['b'\]"):
        model(batch)


@pytest.mark.parametrize("classes", [-1, 0])
def test_no_output_is_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match="num_classes"):
        make_model(classes=classes)


def test_one_output_may_be_a_number() -> None:
    assert make_model(classes=1).eval()(make_batch()).logits.shape == (4, 1)


def test_tells_what_its_encoders_need() -> None:
    model = MultimodalModel({"image": ImageCNN(3), "text": ByteTextCNN(), "audio": LogMelCNN(24)}, 3)
    needed = {"image": {"channels": 3}, "text": {"vocabulary_size": 259}, "audio": {"mels": 24}}
    assert model.requirements == needed


def test_no_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        MultimodalModel({}, 3)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
def test_modality_dropout_keeps_one_and_only_takes_away(probability: float) -> None:
    """Two modalities: one goes if its draw is below p and the other's is larger, p - p^2 / 2 of the time."""
    rows = 20_000
    present = {"a": torch.arange(rows) % 4 != 1, "b": torch.arange(rows) % 4 != 2}
    kept = drop_modalities(present, probability)
    assert list(kept) == ["a", "b"]
    assert not any((kept[m] & ~present[m]).any() for m in present)
    assert (kept["a"] | kept["b"]).all()
    both = present["a"] & present["b"]
    for mask in kept.values():
        gone = (~mask[both]).float().mean().item()
        assert gone == pytest.approx(probability - probability**2 / 2, abs=0.02)
    assert all(torch.equal(kept[m][~both], present[m][~both]) for m in kept)


def test_modality_dropout_acts_in_training_only() -> None:
    model, batch = make_model(modality_dropout=0.8), make_batch(size=SIZE)
    assert torch.equal(model.eval()(batch).logits, model(batch).logits)
    features = model.train()(batch).features
    assert any((x == 0).all(dim=1).any() for x in features.values())


@pytest.mark.parametrize("probability", [-0.1, 1.0, NAN])
def test_bad_modality_dropout_is_refused(probability: float) -> None:
    with pytest.raises(ConfigError, match="modality_dropout"):
        make_model(modality_dropout=probability)


@HEADS
@pytest.mark.parametrize("training", [True, False])
def test_X3_a_whole_batch_without_a_modality(fusion: Any, training: bool) -> None:
    """Finite, and every parameter has a gradient all the same, so that DDP waits for none."""
    model = make_model(fusion=fusion).train(training)
    logits, grads = answer(model, spoiled(make_batch(size=SIZE, absent={"b": range(SIZE)})))
    assert logits.isfinite().all()
    assert set(grads) == {name for name, _ in model.named_parameters()}
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("modalities", [("a",), ("a", "b")])
def test_X5_attention_with_all_keys_masked_is_an_error_and_never_nan(modalities: tuple[str, ...]) -> None:
    """One row with nothing is refused; rows with one key are finite, forth and back."""
    model = make_model(modalities, fusion=AttentionFusion).eval()
    with pytest.raises(RuntimeError, match="no modality"):
        model(make_batch(modalities, SIZE, {m: [2] for m in modalities}))
    one_key = make_batch(modalities, SIZE, {"b": range(SIZE)} if "b" in modalities else {})
    logits, grads = answer(model, spoiled(one_key))
    assert logits.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads.values())


@HEADS
def test_X6_one_rule_in_training_evaluation_and_a_saved_student(fusion: Any, tmp_path: Path) -> None:
    """The parts here do the same in both modes, so an absent modality is all that could make a difference."""
    tokens = fusion.reads_tokens
    parts: dict[str, Encoder] = {
        "image": ImageCNN(width=4, tokens=tokens),
        "audio": LogMelCNN(width=4, tokens=tokens),
    }
    model = MultimodalModel(parts, 3, partial(build, fusion))
    encoders = {
        "image": {
            "class_path": "lightning_distill.encoders.ImageCNN",
            "init_args": {"width": 4, "tokens": tokens},
        },
        "audio": {
            "class_path": "lightning_distill.encoders.LogMelCNN",
            "init_args": {"width": 4, "tokens": tokens},
        },
    }
    init_args = {
        "encoders": encoders,
        "num_classes": 3,
        "fusion": {"class_path": f"lightning_distill.fusion.{fusion.__name__}"} | PARTS.get(fusion, {}),
    }
    save_student(
        model, tmp_path / "s", {"class_path": "lightning_distill.MultimodalModel", "init_args": init_args}
    )
    batch = spoiled(make_batch(("image", "audio"), SIZE, {"image": [0, 3], "audio": [1]}))
    trained, evaluated = model.train()(batch), model.eval()(batch)
    loaded = load_student(tmp_path / "s")(batch)
    for output in (evaluated, loaded):
        assert torch.equal(output.logits, trained.logits)
        assert all(torch.equal(output.features[m], trained.features[m]) for m in trained.features)
    assert (trained.features["image"][[0, 3]] == 0).all()


class Logits(nn.Module):
    """What is exported of a model."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model(batch).logits


@pytest.mark.parametrize("tokens", [False, True])
def test_X6_one_rule_under_export_too(tokens: bool) -> None:
    """Traced with everything there, asked with absences that hold NaN."""
    encoders: dict[str, Encoder] = {
        "image": ImageCNN(width=4, tokens=tokens),
        "audio": LogMelCNN(width=4, tokens=tokens),
    }
    model = Logits(MultimodalModel(encoders, 3, BottleneckFusion if tokens else GatedFusion)).eval()
    whole = make_batch(("image", "audio"), SIZE)
    program = torch.export.export(model, (whole,), strict=False).module()
    batch = spoiled(make_batch(("image", "audio"), SIZE, {"image": [0, 3], "audio": [1]}))
    torch.testing.assert_close(program(batch), model(batch))


def test_a_sample_without_any_modality_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no modality"):
        make_model().eval()(make_batch(size=SIZE, absent={"a": [1], "b": [1]}))


def test_state_dict_round_trip() -> None:
    model, twin = make_model(), make_model()
    model.train()(make_batch())
    twin.load_state_dict(model.state_dict(), strict=True)
    batch = make_batch()
    assert torch.equal(model.eval()(batch).logits, twin.eval()(batch).logits)
