"""Teachers of timm and transformers, in local folders as these libraries save them, teach through `fit`."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import transformers
import yaml
from lightning.pytorch import seed_everything

from lightning_distill import load_student
from tests.cli.conftest import SPLITS, Config, Project, module, project, small_config

__all__ = ["project"]

CLASSES = ("cat", "dog", "emu")
WORDS = ("meow", "woof", "boom")
ROWS = 96
TIMM = {
    "class_path": "TimmTeacher",
    # In another order than the data's, so that names must be matched.
    "init_args": {"model_name": "test_resnet", "weights": "resnet", "classes": list(CLASSES[::-1])},
}
BERT = {"class_path": "TransformersTeacher", "init_args": {"model": "bert"}}
KD = {"class_path": "LogitKD", "init_args": {"temperature": 2.0}}
ENCODERS: dict[str, Config] = {
    "image": {"class_path": "ImageCNN", "init_args": {"channels": 3, "width": 8, "embedding_dim": 16}},
    "text": {"class_path": "ByteTextCNN", "init_args": {"width": 16, "embedding_dim": 16}},
}
PROCESSORS: dict[str, Config] = {
    "image": {"class_path": "ImageProcessor", "init_args": {"size": 32}},
    "text": {"class_path": "ByteTextProcessor", "init_args": {"max_length": 16}},
}
WORD_PIECES = {"text": {"class_path": "TextProcessor", "init_args": {"tokenizer": "bert", "max_length": 8}}}


def picture(row: int) -> np.ndarray:
    """Bright in one of the three colours, as the class says."""
    found = np.random.default_rng(row).integers(0, 90, (32, 40, 3), dtype=np.uint8)
    found[:, :, row % 3] += 150
    return found


def save_timm_teacher(folder: Path) -> None:
    """A ResNet with its classifier, fitted to the pictures for a few steps, its logits in reverse order."""
    model = timm.create_model("test_resnet", num_classes=3)
    pictures = np.stack([cv2.cvtColor(picture(row), cv2.COLOR_BGR2RGB)[:, :32] for row in range(48)])
    inputs = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    fit(model, {"x": inputs}, torch.tensor([2 - row % 3 for row in range(48)]), 15, lambda logits: logits)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)


def save_bert_teacher(folder: Path) -> None:
    """A BERT of two small layers with tokenizer and classifier, fitted to the words for a few steps."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "says", *WORDS]
    tokenizer = transformers.BertTokenizer(vocab={word: at for at, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: at for at, name in enumerate(CLASSES)},
    )
    model = transformers.BertForSequenceClassification(config)
    inputs = dict(tokenizer([f"it says {word}" for word in WORDS], return_tensors="pt", padding=True))
    fit(model, inputs, torch.arange(3), 40, lambda output: output.logits)
    model.save_pretrained(folder)


def fit(
    model: torch.nn.Module, inputs: dict[str, Any], target: torch.Tensor, steps: int, logits: Any
) -> None:
    """Until it knows these samples."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(logits(model(**inputs)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert torch.equal(logits(model(**inputs)).argmax(dim=1), target)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    seed_everything(0, verbose=False)
    save_timm_teacher(folder / "resnet")
    save_bert_teacher(folder / "bert")
    return folder


@pytest.fixture
def taught(project: Project, teachers: Path) -> Project:
    """A folder with a table of pictures and texts, and both teachers."""
    rows = ["image,text,label,split"]
    for row in range(ROWS):
        cv2.imwrite(f"{row}.png", picture(row))
        rows.append(f"{row}.png,it says {WORDS[row % 3]} {row},{CLASSES[row % 3]},{SPLITS[row // 3 % 4]}")
    Path("table.csv").write_text("\n".join(rows) + "\n")
    shutil.copytree(teachers, ".", dirs_exist_ok=True)
    return project


def distillation(modalities: tuple[str, ...], teacher: Config, losses: Config, own: Config) -> Config:
    """Writes and returns a config whose loss is the teacher's alone."""
    config = small_config()
    config["trainer"]["max_epochs"] = 4
    student = module(config)["student"]["init_args"]
    student |= {"encoders": {m: ENCODERS[m] for m in modalities}, "num_classes": 3}
    weights = {"task": 0.0, "hint": 0.1}
    module(config).update(
        teacher=teacher, losses=losses, weights={k: w for k, w in weights.items() if k in ("task", *losses)}
    )
    data = config["data"]["init_args"]
    config["data"]["class_path"] = "".join(m.capitalize() for m in modalities) + "DataModule"
    data["processors"] = {m: PROCESSORS[m] for m in modalities}
    data["teacher_processors"] = own
    data["source"]["init_args"]["modalities"] = {m: m for m in modalities}
    Path("distil.yaml").write_text(yaml.safe_dump(config))
    return config


def check_what_was_learnt(modalities: tuple[str, ...], terms: tuple[str, ...]) -> None:
    """The terms fell, the teacher is in no file of the run, and the student needs no teacher's folder."""
    history = list(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
    for term in terms:
        values = [float(row[f"val/{term}"]) for row in history if row[f"val/{term}"]]
        assert len(values) == 4
        assert values[-1] < values[0]
        assert all(math.isfinite(float(row[f"train/{term}"])) for row in history if row[f"train/{term}"])
    # Never a label in the loss: that it knows the classes is the teacher's doing, in the right order.
    assert max(float(row["val/accuracy"]) for row in history if row["val/accuracy"]) > 0.9
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} <= {"student", "terms"}
    assert "teacher" not in checkpoint
    adaptors = [name for name in checkpoint["state_dict"] if name.startswith("terms")]
    assert any("hint.regressor" in name for name in adaptors) == ("hint" in terms)
    for folder in ("resnet", "bert"):
        shutil.rmtree(folder)
    student = load_student(Path("run/student"))
    assert (student.modalities, student.classes) == (modalities, CLASSES)
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    exported = student.state_dict()
    assert len(exported) == sum(name.startswith("student.") for name in best)
    assert all(torch.equal(value, best[f"student.{name}"]) for name, value in exported.items())


def test_a_timm_resnet_teaches_an_image_student(taught: Project) -> None:
    hint = {"student": "encoders.image.layers.6", "teacher": "backbone.layer3"}
    losses = {"kd": KD, "hint": {"class_path": "Hint", "init_args": hint}}
    distillation(("image",), TIMM, losses, {})
    assert taught.fit("--run", "run", config="distil.yaml") == 0, taught.err
    check_what_was_learnt(("image",), ("kd", "hint"))


def test_a_transformers_model_teaches_a_student_of_bytes(taught: Project) -> None:
    distillation(("text",), BERT, {"kd": KD}, WORD_PIECES)
    assert taught.fit("--run", "run", config="distil.yaml") == 0, taught.err
    check_what_was_learnt(("text",), ("kd",))


def test_without_its_tokenizer_the_teacher_is_refused(taught: Project) -> None:
    distillation(("text",), BERT, {"kd": KD}, {})
    said = taught.fails("fit", "--config", "distil.yaml", "--run", "run")
    assert "vocabulary_size" in said
    assert "teacher_processors" in said


def test_both_teach_a_student_of_both(taught: Project) -> None:
    both = {"class_path": "AveragedTeacher", "init_args": {"teachers": [BERT, TIMM], "weights": [1.0, 2.0]}}
    hint = {"student": "encoders.image.layers.6", "teacher": "1.backbone.layer3"}
    losses = {"kd": KD, "hint": {"class_path": "Hint", "init_args": hint}}
    distillation(("image", "text"), both, losses, WORD_PIECES)
    assert taught.fit("--run", "run", config="distil.yaml") == 0, taught.err
    check_what_was_learnt(("image", "text"), ("kd", "hint"))
