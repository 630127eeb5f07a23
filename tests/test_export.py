"""A saved student is complete, needs nothing else, and runs no code that was not asked for."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lightning_distill import load_student, save_student
from lightning_distill.encoders import ByteTextCNN, ImageCNN, TimmImageEncoder, TransformersTextEncoder
from lightning_distill.errors import CheckpointError, ConfigError
from lightning_distill.feature_clipping import HardClip
from lightning_distill.fusion import AttentionFusion
from lightning_distill.model import MultimodalModel
from tests.builders import make_batch, weights_of
from tests.encoders.pretrained import save_bert, save_timm

Spec = dict[str, Any]

CONFIG: Spec = {
    "class_path": "lightning_distill.MultimodalModel",
    "init_args": {
        "num_classes": 3,
        "encoders": {
            "image": {"class_path": "lightning_distill.encoders.ImageCNN", "init_args": {"width": 8}},
            "text": {"class_path": "lightning_distill.encoders.ByteTextCNN"},
        },
        "fusion": {"class_path": "lightning_distill.fusion.AttentionFusion", "init_args": {"output_dim": 16}},
        "feature_clip": {
            "class_path": "lightning_distill.feature_clipping.HardClip",
            "init_args": {"epsilon": 2.0},
        },
    },
}


def small_model() -> MultimodalModel:
    """The model `CONFIG` describes."""
    encoders = {"image": ImageCNN(width=8), "text": ByteTextCNN()}
    model = MultimodalModel(encoders, 3, partial(AttentionFusion, output_dim=16), HardClip(2.0))
    model.classes = ("ant", "bee", "cat")
    model.preprocessing = {"image": {"size": 16}, "text": {"max_length": 64}}
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved small model."""
    save_student(small_model(), tmp_path / "student", CONFIG)
    return tmp_path / "student"


def edit(folder: Path, **changes: Any) -> None:
    """Change init args in config.json."""
    content = described(folder)
    content["model"]["init_args"].update(changes)
    (folder / "config.json").write_text(json.dumps(content))


def described(folder: Path) -> Spec:
    """config.json without checksums, as by a hand that changes it or by an older version."""
    content: Spec = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in content.items() if name not in ("files", "check")}


def test_a_student_of_before_modalities_were_ordered_is_refused(saved: Path) -> None:
    """Its file does not say the order: that of the config. In alphabetical order it is right as it is."""
    content = described(saved)
    assert content.pop("fused") == ["image", "text"]
    (saved / "config.json").write_text(json.dumps(content))
    assert load_student(saved).modalities == ("image", "text")
    encoders = content["model"]["init_args"]["encoders"]
    content["model"]["init_args"]["encoders"] = dict(reversed(encoders.items()))
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"in the order text, image; .*image, text.*train it again"):
        load_student(saved)


def test_a_loaded_student_answers_as_the_saved_one(tmp_path: Path) -> None:
    model, batch = small_model(), make_batch(("image", "text"))
    save_student(model, tmp_path / "a" / "student", CONFIG)
    loaded = load_student(tmp_path / "a" / "student")
    assert torch.equal(loaded(batch).logits, model.eval()(batch).logits)
    assert loaded.classes == model.classes
    assert loaded.preprocessing == model.preprocessing
    assert not any(part.training for part in loaded.modules())
    assert isinstance(loaded.feature_clip, HardClip)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"student"}
    assert {p.name for p in (tmp_path / "a" / "student").iterdir()} == {"config.json", "model.safetensors"}


def test_saving_again_replaces(saved: Path) -> None:
    (saved / "stale").write_text("")
    model = small_model()
    save_student(model, saved, CONFIG)
    assert not (saved / "stale").exists()
    loaded = weights_of(load_student(saved))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights_of(model).items())
    assert {p.name for p in saved.parent.iterdir()} == {"student"}


def test_pretrained_files_are_not_needed_again(tmp_path: Path) -> None:
    """Neither weights, nor configurations, nor the old place of the student."""
    bert, resnet = save_bert(tmp_path / "bert"), save_timm(tmp_path / "resnet")
    spec: Spec = {
        "class_path": "lightning_distill.MultimodalModel",
        "init_args": {
            "num_classes": 3,
            "encoders": {
                "image": {
                    "class_path": "lightning_distill.encoders.TimmImageEncoder",
                    "init_args": {"pretrained": True, "weights": resnet},
                },
                "text": {
                    "class_path": "lightning_distill.encoders.TransformersTextEncoder",
                    "init_args": {"model": str(bert)},
                },
            },
        },
    }
    encoders = {
        "image": TimmImageEncoder(pretrained=True, weights=resnet),
        "text": TransformersTextEncoder(str(bert)),
    }
    model = MultimodalModel(encoders, 3)
    save_student(model, tmp_path / "student", spec)
    shutil.rmtree(bert)
    shutil.rmtree(resnet)
    (tmp_path / "student").rename(tmp_path / "moved")
    batch = make_batch(("image", "text"))
    batch["inputs"]["image"] = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    batch["inputs"]["text"]["input_ids"] %= 20  # type: ignore[index]
    loaded = load_student(tmp_path / "moved")
    assert torch.equal(loaded(batch).logits, model.eval()(batch).logits)
    assert not list((tmp_path / "moved" / "encoders").rglob("*.safetensors"))

    again = {
        "class_path": "lightning_distill.export.load_student",
        "init_args": {"folder": tmp_path / "moved"},
    }
    save_student(loaded, tmp_path / "again", again)
    shutil.rmtree(tmp_path / "moved")
    assert torch.equal(load_student(tmp_path / "again")(batch).logits, model(batch).logits)


def test_config_must_describe_the_model(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    del config["init_args"]["encoders"]["text"]
    with pytest.raises(ConfigError, match=r"encoders \['image', 'text'\]"):
        save_student(small_model(), tmp_path / "student", config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}.*no such file.*lightning-distill fit"):
        load_student(saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {}, "classes": null}', '{"model": "x"}'])
def test_a_file_that_describes_no_model(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json: found not the description of a saved model"):
        load_student(saved)


def test_an_older_student_has_no_preprocessing(saved: Path) -> None:
    content = described(saved)
    del content["preprocessing"]
    (saved / "config.json").write_text(json.dumps(content))
    assert load_student(saved).preprocessing is None


@pytest.mark.parametrize("value", [[1], "x", {"image": 3}, 7])
def test_preprocessing_that_is_none(saved: Path, value: Any) -> None:
    content = described(saved) | {"preprocessing": value}
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not the description of a saved model"):
        load_student(saved)


def test_damaged_weights(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: found other bytes than were written"):
        load_student(saved)
    edit(saved)
    with pytest.raises(CheckpointError, match="weights that do not fit"):
        load_student(saved)


@pytest.mark.row("S7")
def test_weights_must_be_all_there_and_no_others(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["head.extra"] = weights.pop("head.bias")
    safetensors.torch.save_file(weights, path)
    edit(saved)
    with pytest.raises(
        CheckpointError, match=r"1 missing weights \['head.bias'\], 1 unknown ones \['head.extra'\]"
    ):
        load_student(saved)


def test_weights_of_another_shape(saved: Path) -> None:
    edit(saved, num_classes=4)
    with pytest.raises(CheckpointError, match=r"head\.bias"):
        load_student(saved)


def test_a_config_that_cannot_be_made(saved: Path) -> None:
    edit(saved, num_clases=4)
    with pytest.raises(CheckpointError, match="num_clases"):
        load_student(saved)
    edit(saved, num_classes=0)
    with pytest.raises(CheckpointError, match="cannot be made"):
        load_student(saved)


@pytest.mark.parametrize(
    "fusion",
    [
        "os.system",
        {"class_path": "subprocess.Popen"},
        "lightning_distill.export.shutil.rmtree",
        {"class_path": "lightning_distill.export.import_module"},
        "torch.hub.load",
        "torch.nn.Module.torch.load",
        "tests.builders.make_model",
    ],
)
def test_only_classes_of_trusted_packages_are_made(saved: Path, fusion: str | Spec) -> None:
    edit(saved, fusion=fusion)
    with pytest.raises(CheckpointError, match=r"classes of lightning_distill, torch\.nn only"):
        load_student(saved)


def test_a_package_of_ones_own_can_be_trusted(tmp_path: Path) -> None:
    from tests.builders import VectorEncoder

    model = MultimodalModel({"a": VectorEncoder(6)}, 3)
    encoder = {"class_path": "tests.builders.VectorEncoder", "init_args": {"dim": 6}}
    init_args = {"num_classes": 3, "encoders": {"a": encoder}}
    save_student(
        model, tmp_path / "s", {"class_path": "lightning_distill.MultimodalModel", "init_args": init_args}
    )
    with pytest.raises(CheckpointError, match=r"packages=\['tests'\]"):
        load_student(tmp_path / "s")
    assert load_student(tmp_path / "s", packages=["tests"]).modalities == ("a",)


def test_others_may_read_what_the_owner_may_share(saved: Path) -> None:
    modes = {(saved / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
