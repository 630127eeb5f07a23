"""Models that were made without this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from lightning_distill.errors import ConfigError, TeacherError
from lightning_distill.structures import Batch
from lightning_distill.teachers import ForeignTeacher, TimmTeacher, TransformersTeacher
from tests.builders import DIMS, make_batch
from tests.encoders.pretrained import save_bert, save_timm


class Wrapped(nn.Module):
    """Returns its logits in some wrapping."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body, self.head, self.wrap = nn.Linear(DIMS["a"], 7), nn.Linear(7, 3), wrap

    def forward(self, inputs: Tensor) -> Any:
        return self.wrap(self.head(self.body(inputs)))


class Said:
    """An object with logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda x: x, Said, lambda x: {"logits": x, "aux": 1}])
def test_logits_in_any_wrapping(wrap: Any) -> None:
    model, batch = Wrapped(wrap), make_batch()
    teacher = ForeignTeacher(model, "a", 3, ["ant", "bee", "cat"], embedding="body")
    teacher.read_layers(["head", "embedding"])
    output = teacher(batch)
    body = model.body(batch["inputs"]["a"])
    assert torch.equal(output.logits, model.head(body))
    assert torch.equal(output.at("embedding"), body)
    assert torch.equal(output.at("head"), output.logits)
    assert (teacher.classes, set(teacher.requirements)) == (("ant", "bee", "cat"), {"a"})


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda x: (x, x), "type tuple"),
        (lambda x: {"out": x}, "type dict"),
        (lambda x: x[:, :2], r"shape \(4, 2\)"),
        (lambda x: x[:1], r"shape \(1, 3\)"),
    ],
)
def test_an_answer_without_logits_is_explained(wrap: Any, words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        ForeignTeacher(Wrapped(wrap), "a", 3)(make_batch())


def test_foreign_mistakes() -> None:
    with pytest.raises(TeacherError, match="2 names; expected 3"):
        ForeignTeacher(Wrapped(Said), "a", 3, ["ant", "bee"])
    with pytest.raises(ConfigError, match="did you mean 'body'"):
        ForeignTeacher(Wrapped(Said), "a", 3, embedding="bodi")


def test_a_dict_of_tensors_becomes_keyword_arguments() -> None:
    config = transformers.BertConfig(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=5,
    )
    model = transformers.BertForSequenceClassification(config)
    batch = make_batch(["text"])
    output = ForeignTeacher(model, "text", 5)(batch)
    assert torch.equal(output.logits, model.eval()(**batch["inputs"]["text"]).logits)


def images(size: int = 32) -> Batch:
    batch = make_batch(["image"])
    batch["inputs"]["image"] = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    return batch


def test_timm_from_a_folder_keeps_its_classifier_and_normalises(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=6).eval()
    timm.models.save_for_hf(model, str(tmp_path / "t"), safe_serialization=True)
    teacher, batch = TimmTeacher(weights=tmp_path / "t", embedding="backbone.global_pool"), images()
    output = teacher(batch)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = (batch["inputs"]["image"].float() / 255 - mean) / std  # type: ignore[union-attr]
    torch.testing.assert_close(output.logits, model(x))
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(output.at("embedding"), pooled)
    assert (teacher.num_classes, teacher.requirements) == (6, {"image": {"channels": 3}})
    assert not any(part.training for part in teacher.model.modules())


def test_timm_mistakes(tmp_path: Path) -> None:
    folder = save_timm(tmp_path / "t")
    with pytest.raises(TeacherError, match="1000 classes; expected the 2"):
        TimmTeacher(weights=folder, classes=["x", "y"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        TimmTeacher(weights=folder)


def save_classifier(folder: Path, names: dict[int, str] | None = None) -> Path:
    config = transformers.BertConfig(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    config.num_labels = 3
    if names:
        config.id2label = names
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_transformers_from_a_folder(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "b", {0: "ant", 1: "bee", 2: "cat"})
    teacher, batch = TransformersTeacher(str(folder), embedding="bert.pooler"), make_batch(["text"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    output = teacher(batch)
    with torch.no_grad():
        torch.testing.assert_close(output.logits, model(**batch["inputs"]["text"]).logits)
        torch.testing.assert_close(output.at("embedding"), model.bert(**batch["inputs"]["text"])[1])
    assert (teacher.num_classes, teacher.classes) == (3, ("ant", "bee", "cat"))
    assert teacher.requirements == {"text": {"vocabulary_size": 260}}


def test_transformers_without_names_has_none(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "b")
    assert TransformersTeacher(str(folder)).classes is None
    assert TransformersTeacher(str(folder), classes=["x", "y", "z"]).classes == ("x", "y", "z")
    with pytest.raises(TeacherError, match="3 classes; expected the 1"):
        TransformersTeacher(str(folder), classes=["x"])


def test_transformers_without_a_trained_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights for classifier\.bias"):
        TransformersTeacher(str(save_bert(tmp_path / "b")))
    with pytest.raises(ConfigError, match=r"TransformersTeacher\.model"):
        TransformersTeacher(str(tmp_path / "nothing"))
