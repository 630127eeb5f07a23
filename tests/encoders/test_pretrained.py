"""Encoders from timm and transformers, with weights in local folders; no network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import transformers

from lightning_distill.encoders import ByteTextCNN, TimmImageEncoder, TransformersTextEncoder
from lightning_distill.errors import ConfigError
from tests.builders import make_inputs
from tests.encoders.pretrained import save_bert, save_timm


def test_timm_weights_from_a_folder_with_its_own_normalisation(tmp_path: Path) -> None:
    folder = save_timm(tmp_path / "weights")
    encoder = TimmImageEncoder(weights=folder).eval()
    own = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(own.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = own((images / 255 - mean) / std)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit2", "test_mambaout", "mobilenetv3_small_050"])
def test_timm_width_is_what_the_model_pools_to(name: str) -> None:
    """Some models have a hidden layer behind the pooling, and then `num_features` is not the width."""
    encoder = TimmImageEncoder(name).eval()
    assert encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, encoder.embedding_dim)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_channels(channels: int) -> None:
    encoder = TimmImageEncoder("test_resnet", channels=channels)
    assert encoder(torch.zeros(2, channels, 32, 32, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_resnet"])
def test_timm_tells_the_size_it_insists_on(name: str) -> None:
    """A transformer has positions for one size; convolutions take any."""
    encoder = TimmImageEncoder(name).eval()
    needed = dict(encoder.requirements)
    for size in (64, 224):
        images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        if size == needed.get("size", size):
            assert encoder(images).isfinite().all()
        else:
            with pytest.raises(AssertionError, match="doesn't match model"):
                encoder(images)
    assert ("size" in needed) == name.startswith("vit")
    assert needed["channels"] == 3


def test_transformers_tells_its_vocabulary(tmp_path: Path) -> None:
    encoder = TransformersTextEncoder(str(save_bert(tmp_path / "bert")))
    assert encoder.requirements == {"vocabulary_size": 260}


def test_timm_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        TimmImageEncoder("resnet_18")
    with pytest.raises(ConfigError, match=r"config\.json"):
        TimmImageEncoder(weights=tmp_path)


def test_transformers_mean_over_real_tokens(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    encoder = TransformersTextEncoder(str(folder)).eval()
    own = transformers.BertModel.from_pretrained(folder).eval()
    inputs = make_inputs("text", 4)
    assert isinstance(inputs, dict)
    with torch.no_grad():
        hidden = own(**inputs).last_hidden_state
        lengths = inputs["attention_mask"].sum(dim=1)
        expected = torch.stack([h[:n].mean(dim=0) for h, n in zip(hidden, lengths, strict=True)])
        torch.testing.assert_close(encoder(inputs), expected)


def test_transformers_with_random_weights_reads_only_the_configuration(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    encoder = TransformersTextEncoder(str(folder), pretrained=False)
    assert encoder.embedding_dim == 16
    with pytest.raises(ConfigError, match=r"TransformersTextEncoder\.model: found folder"):
        TransformersTextEncoder(str(folder))


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_transformers_damaged_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    folder = save_bert(tmp_path / "bert")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="TransformersTextEncoder"):
        TransformersTextEncoder(str(folder))


def test_transformers_unknown_name_without_a_network() -> None:
    with pytest.raises(ConfigError, match="no/such-model"):
        TransformersTextEncoder("no/such-model")


def test_padding_does_not_matter(tmp_path: Path) -> None:
    """Neither how much of it there is nor which tokens it holds, whatever the weights."""
    inputs = {
        "input_ids": torch.randint(3, 250, (4, 9)),
        "attention_mask": torch.ones(4, 9, dtype=torch.int64),
    }
    longer = {k: torch.cat([v, torch.zeros(4, 5, dtype=torch.int64)], dim=1) for k, v in inputs.items()}
    other = longer | {"input_ids": longer["input_ids"] + 7 * (1 - longer["attention_mask"])}
    for encoder in (ByteTextCNN(), TransformersTextEncoder(str(save_bert(tmp_path / "bert")))):
        for name, parameter in encoder.eval().named_parameters():
            parameter.data += "bias" in name
        torch.testing.assert_close(encoder(longer), encoder(inputs))
        torch.testing.assert_close(encoder(other), encoder(longer))


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_timm_folder_without_good_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    folder = save_timm(tmp_path / "weights")
    weights = folder / "model.safetensors"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(ConfigError, match="TimmImageEncoder"):
        TimmImageEncoder(weights=folder)
