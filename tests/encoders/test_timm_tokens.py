"""Tokens of timm models: every kind of map, every weight in use, saved and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from lightning_distill.encoders import TimmImageEncoder, TransformersTextEncoder
from lightning_distill.errors import ConfigError
from lightning_distill.export import load_student, save_student
from lightning_distill.model import MultimodalModel
from tests.builders import make_batch
from tests.encoders.pretrained import save_bert
from tests.test_tokens_in_the_model import MeanTokens


def timm_pair(name: str) -> tuple[TimmImageEncoder, TimmImageEncoder, Tensor]:
    """Vector and token encoder of the same weights, and images they take."""
    vector, tokens = TimmImageEncoder(name).eval(), TimmImageEncoder(name, tokens=True).eval()
    tokens.load_state_dict(vector.state_dict(), strict=True)
    side = vector.backbone.pretrained_cfg["input_size"][1]
    return vector, tokens, torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 49), ("swin_tiny_patch4_window7_224", 49), ("test_efficientnet", 25)]
)
def test_timm_mean_of_the_cells_is_what_it_pools(name: str, count: int) -> None:
    """Channels first and last: a mean over the wrong dimension has another width."""
    vector, tokens, images = timm_pair(name)
    with torch.no_grad():
        found = tokens(images)
        torch.testing.assert_close(found.mean(), vector(images), rtol=1e-4, atol=1e-5)
    assert found.values.shape == (2, count, vector.embedding_dim)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_timm_cells_lie_row_by_row(name: str) -> None:
    _, tokens, images = timm_pair(name)
    with torch.no_grad():
        found = tokens(images).values
        pixels = (images / 255 - tokens.mean) / tokens.std
        feature_map = tokens.backbone.forward_features(pixels)
    if name == "resnet18":
        feature_map = feature_map.permute(0, 2, 3, 1)
    for row, column in ((0, 1), (3, 0), (6, 5)):
        torch.testing.assert_close(found[:, 7 * row + column], feature_map[:, row, column])


def test_timm_class_token_comes_first() -> None:
    """It is what a vision transformer pools to; 196 patches follow."""
    vector, tokens, images = timm_pair("vit_tiny_patch16_224")
    with torch.no_grad():
        values = tokens(images).values
        torch.testing.assert_close(values[:, 0], vector(images), rtol=1e-4, atol=1e-5)
    assert values.shape == (2, 197, 192)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "vit_tiny_patch16_224",
        "mobilenetv3_small_050",
        "test_convnext",
        "test_mambaout",
        "test_vit2",
    ],
)
def test_timm_leaves_no_parameter_unused(name: str) -> None:
    """DDP refuses a parameter without a gradient. Some have a layer behind the pooling, some a last norm."""
    _, tokens, images = timm_pair(name)
    found = tokens.train()(images)
    found.values.square().sum().backward()
    assert [n for n, p in tokens.named_parameters() if p.grad is None] == []
    assert found.values.shape[-1] == tokens.embedding_dim
    assert found.values.isfinite().all()


@pytest.mark.parametrize("name", ["test_vit2", "mobilenetv3_small_050"])
def test_timm_weights_are_all_loaded(name: str, tmp_path: Path) -> None:
    """Those behind the pooling too, which timm calls otherwise in a model made without pooling."""
    model = timm.create_model(name)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    timm.models.save_for_hf(model, str(tmp_path / "w"), safe_serialization=True)
    encoder = TimmImageEncoder(weights=tmp_path / "w", tokens=True)
    own = model.state_dict()
    assert all(torch.equal(x, own[n]) for n, x in encoder.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("inception_next_atto", "Cannot disable pooling"),
        ("deit_tiny_distilled_patch16_224", r"makes \(2, 192\) of two images"),
        ("efficientvim_m1", "makes no tensor"),
        ("vgg11", "a single token"),
    ],
)
def test_timm_models_without_tokens_are_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"TimmImageEncoder\.tokens: found '{name}': .*{why}"):
        TimmImageEncoder(name, tokens=True)


def test_timm_tokens_draw_no_random_number() -> None:
    """Nor do they change a weight: the same seed makes the same backbone with and without."""
    states = []
    for tokens in (False, True):
        torch.manual_seed(1)
        states.append((TimmImageEncoder("test_resnet", tokens=tokens).state_dict(), torch.rand(3)))
    (vector, drawn), (tokens_too, drawn_too) = states
    assert vector.keys() == tokens_too.keys()
    assert all(torch.equal(x, tokens_too[name]) for name, x in vector.items())
    assert torch.equal(drawn, drawn_too)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit2", "mobilenetv3_small_050"])
def test_a_saved_student_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    """Without the files the encoders came from."""
    bert = save_bert(tmp_path / "bert")
    model = MultimodalModel(
        {
            "image": TimmImageEncoder(name, tokens=True),
            "text": TransformersTextEncoder(str(bert), tokens=True),
        },
        3,
        MeanTokens,
    ).eval()
    image = {"model_name": name, "tokens": True}
    text = {"model": str(bert), "tokens": True}
    encoders = {
        "image": {"class_path": "lightning_distill.encoders.TimmImageEncoder", "init_args": image},
        "text": {"class_path": "lightning_distill.encoders.TransformersTextEncoder", "init_args": text},
    }
    fusion = {"class_path": f"{MeanTokens.__module__}.MeanTokens"}
    init_args = {"encoders": encoders, "num_classes": 3, "fusion": fusion}
    config = {"class_path": "lightning_distill.MultimodalModel", "init_args": init_args}
    save_student(model, tmp_path / "student", config)
    shutil.rmtree(bert)
    loaded = load_student(tmp_path / "student", packages=["tests"])
    batch = make_batch(("image", "text"))
    side = model.encoders["image"].backbone.pretrained_cfg["input_size"][1]
    batch["inputs"]["image"] = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    expected, found = model(batch), loaded(batch)
    assert torch.equal(found.logits, expected.logits)
    for modality in ("image", "text"):
        assert torch.equal(found.tokens[modality].values, expected.tokens[modality].values)
        assert torch.equal(found.tokens[modality].mask, expected.tokens[modality].mask)
