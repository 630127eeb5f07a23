"""Every format answers as the student does: any batch size, any length of text, any modality left out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from transformers import BertConfig

from lightning_distill.encoders import (
    ByteTextCNN,
    Encoder,
    ImageCNN,
    LogMelCNN,
    TimmImageEncoder,
    TransformersTextEncoder,
)
from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import BoundaryClip, HardClip
from lightning_distill.fusion import (
    AttentionFusion,
    BottleneckFusion,
    ConcatFusion,
    GatedFusion,
    LowRankFusion,
    MCBFusion,
    TokenAttentionFusion,
)
from lightning_distill.model import MultimodalModel
from lightning_distill.shipping.flat import FlatModel, input_names
from lightning_distill.shipping.onnx_file import ONNX, onnx_answers, write_onnx
from lightning_distill.shipping.program_file import DESCRIPTION, PROGRAM, make_program, write_program
from lightning_distill.structures import Batch, Inputs
from tests.shelves import build, concrete

NIGHTLY = os.environ.get("LIGHTNING_DISTILL_NIGHTLY") == "1"
WIDTH = 8
Make = Callable[[Path, bool], Encoder]

IMAGE: Make = lambda _, tokens: ImageCNN(3, 4, WIDTH, tokens)  # noqa: E731
TEXT: Make = lambda _, tokens: ByteTextCNN(width=4, embedding_dim=WIDTH, tokens=tokens)  # noqa: E731
AUDIO: Make = lambda _, tokens: LogMelCNN(width=4, embedding_dim=WIDTH, tokens=tokens)  # noqa: E731
TIMM: Make = lambda _, tokens: TimmImageEncoder("test_resnet", tokens=tokens)  # noqa: E731
BERT: Make = lambda folder, tokens: bert(folder / "bert", tokens)  # noqa: E731


def bert(folder: Path, tokens: bool) -> Encoder:
    """One layer, made from its configuration."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=260, max_position_embeddings=64, **sizes).save_pretrained(folder)
    return TransformersTextEncoder(str(folder), pretrained=False, tokens=tokens)


SOME: dict[str, tuple[dict[str, Make], Any]] = {
    "text alone": ({"text": TEXT}, ConcatFusion),
    "timm and bert, low rank": ({"image": TIMM, "text": BERT}, LowRankFusion),
    "tokens": ({"text": TEXT, "audio": AUDIO}, TokenAttentionFusion),
}
MORE: dict[str, tuple[dict[str, Make], Any]] = {
    "timm and bert, attention": ({"image": TIMM, "text": BERT}, AttentionFusion),
    "bert alone": ({"text": BERT}, ConcatFusion),
    "tokens of timm and bert": ({"image": TIMM, "text": BERT}, BottleneckFusion),
    "timm and bert, gated": ({"image": TIMM, "text": BERT}, GatedFusion),
    # The slope of MCB's square root, 1000 at 0, makes 1e-4 of what rounds otherwise in onnxruntime's Fourier
    # transform: `export` refuses its ONNX file, as it should.
    **{
        cls.__name__: ({"image": IMAGE, "text": TEXT, "audio": AUDIO}, cls)
        for cls in concrete("fusion")
        if cls is not MCBFusion
    },
}
CASES = {**SOME, **MORE} if NIGHTLY else SOME


def make(case: tuple[dict[str, Make], Any], folder: Path) -> MultimodalModel:
    encoders, head = case
    torch.manual_seed(0)
    made = {m: build_encoder(folder, head.reads_tokens) for m, build_encoder in encoders.items()}
    clips: Any = {next(iter(made)): BoundaryClip(0.5)} if "image" in made and not head.reads_tokens else None
    model = MultimodalModel(made, 3, partial(build, head), HardClip(2.0), modality_clips=clips)
    for name, parameter in model.named_parameters():  # nothing may be at the zero it starts from
        generator = torch.Generator().manual_seed(len(name))
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def inputs_of(modality: str, size: int, tokens: int) -> Inputs:
    if modality == "image":
        return torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    if modality == "audio":
        return torch.randn(size, 24, 40)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (size, 1))).long()
    mask[0] = 1
    return {"input_ids": torch.randint(3, 250, (size, tokens)) * mask, "attention_mask": mask}


def batch_of(model: MultimodalModel, size: int, tokens: int, absences: bool = False) -> Batch:
    """With `absences`, each sample lacks some modality, and no sample all of them."""
    names = model.modalities
    lacking = torch.arange(size) % len(names) if absences and len(names) > 1 else torch.full((size,), -1)
    return {
        "inputs": {m: inputs_of(m, size, tokens) for m in names},
        "present": {m: lacking != at for at, m in enumerate(names)},
        "target": torch.zeros(size, dtype=torch.int64),
        "sample_id": torch.arange(size),
        "domain": torch.zeros(size, dtype=torch.int64),
    }


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_program_and_onnx_answer_as_the_student(case: tuple[dict[str, Make], Any], tmp_path: Path) -> None:
    model = make(case, tmp_path)
    first = batch_of(model, 5, 6)
    flat = FlatModel(model, first)
    program = make_program(flat, first)
    write_program(program, {"a": [1]}, tmp_path / PROGRAM)
    write_onnx(program, flat, first, {"classes": ["ä"]}, tmp_path / ONNX)
    extra = {DESCRIPTION: ""}
    loaded = torch.export.load(tmp_path / PROGRAM, extra_files=extra).module()
    assert json.loads(extra[DESCRIPTION]) == {"a": [1]}
    onnx = onnx_answers(tmp_path / ONNX, flat)
    for size, tokens, absences in ((1, 6, False), (2, 1, True), (7, 11, True), (7, 3, False)):
        batch = batch_of(model, size, tokens, absences)
        with torch.no_grad():
            right = model(batch).logits
            torch.testing.assert_close(flat(*flat.flatten(batch)), right, rtol=0, atol=0)
            torch.testing.assert_close(loaded(*flat.flatten(batch)), right, rtol=0, atol=1e-5)
        torch.testing.assert_close(onnx(batch), right, rtol=0, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / ONNX)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["ä"]
    free = [
        {at: size for at, size in enumerate(x.shape) if isinstance(size, str)} for x in session.get_inputs()
    ]
    assert free == list(flat.free_dims(first))
    for name in (PROGRAM, ONNX):  # neither folders of this machine nor where the code was
        content = (tmp_path / name).read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b".py" not in content


def test_names_and_what_may_vary(tmp_path: Path) -> None:
    model = make(({"image": IMAGE, "text": TEXT, "audio": AUDIO}, ConcatFusion), tmp_path)
    batch = batch_of(model, 2, 6)
    flat = FlatModel(model, batch)
    flags = ("present_image", "present_text", "present_audio")
    assert flat.input_names == ("image", "input_ids", "attention_mask", "audio", *flags)
    tokens = {0: "batch", 1: "text_tokens"}
    alone = {0: "batch"}
    assert flat.free_dims(batch) == (alone, tokens, tokens, alone, alone, alone, alone)
    assert input_names(make(SOME["text alone"], tmp_path), batch) == ("input_ids", "attention_mask")


def test_two_texts_have_names_of_their_own() -> None:
    model = MultimodalModel({"title": ByteTextCNN(width=4), "body": ByteTextCNN(width=4)}, 2)
    text = {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)}
    names = input_names(model, {"inputs": {"title": text, "body": text}})  # type: ignore[typeddict-item]
    assert names[:2] == ("title_input_ids", "title_attention_mask")
    assert len(set(names)) == 6


def test_a_name_taken_twice_is_refused() -> None:
    model = MultimodalModel({"image": ImageCNN(width=4), "present_image": ImageCNN(width=4)}, 2)
    image = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ConfigError, match="'present_image'"):
        input_names(model, {"inputs": {"image": image, "present_image": image}})  # type: ignore[typeddict-item]


def test_what_is_traced_holds_none_of_the_data(tmp_path: Path) -> None:
    """A program keeps the example it was traced with."""
    model = make(SOME["timm and bert, low rank"], tmp_path)
    flat = FlatModel(model, batch_of(model, 5, 6))
    for x in flat.example(batch_of(model, 5, 6)):
        assert len(x) == 2
        assert len(x.unique()) == 1


class _Branching(Encoder):
    """What the user's own code may do: look at the values."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = inputs.flatten(1)[:, :8].float()
        return x if x.sum() > 0 else -x


def test_code_that_looks_at_values_is_named() -> None:
    model = MultimodalModel({"image": _Branching(8)}, 2)
    batch: Any = {"inputs": {"image": torch.zeros(2, 1, 8, 8)}, "present": {}}
    with pytest.raises(ConfigError, match=r"torch\.export.*depend.*--no-program"):
        make_program(FlatModel(model, batch), batch)


class _Sorting(Encoder):
    """What torch.export can say and ONNX has no word for."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j1(inputs.flatten(1)[:, :8].float())


def test_what_onnx_has_no_word_for_is_named(tmp_path: Path) -> None:
    model = MultimodalModel({"image": _Sorting(8)}, 2)
    batch: Any = {"inputs": {"image": torch.zeros(2, 1, 8, 8)}, "present": {}}
    flat = FlatModel(model, batch)
    program = make_program(flat, batch)
    with pytest.raises(ConfigError, match=r"ONNX.*bessel_j1.*--no-onnx"):
        write_onnx(program, flat, batch, {}, tmp_path / ONNX)
