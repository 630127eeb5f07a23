"""What every encoder must do, whichever file it is in."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.encoders import (
    ByteTextCNN,
    Encoder,
    ImageCNN,
    LogMelCNN,
    TimmImageEncoder,
    TransformersTextEncoder,
)
from lightning_distill.structures import Feature, Inputs, Tokens
from tests.builders import make_inputs
from tests.encoders.pretrained import save_bert
from tests.shelves import build, concrete

CLASSES = concrete("encoders")
GIVES_TOKENS = [cls for cls in CLASSES if "tokens" in inspect.signature(cls).parameters]
CASES = [(cls, False) for cls in CLASSES] + [(cls, True) for cls in GIVES_TOKENS]
ENCODERS = pytest.mark.parametrize(
    ("cls", "tokens"), CASES, ids=[f"{cls.__name__}{'-tokens' * tokens}" for cls, tokens in CASES]
)
TOKENS = pytest.mark.parametrize("cls", GIVES_TOKENS)
BATCH = 4


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    """Arguments of encoders that need more than their defaults; every other one is built without any."""
    bert = save_bert(tmp_path_factory.mktemp("bert"))
    return {
        TimmImageEncoder: {"model_name": "test_resnet", "channels": 1},
        TransformersTextEncoder: {"model": str(bert)},
    }


def modality_of(cls: Any) -> str:
    """Files are called <modality>_<backbone>.py."""
    return Path(inspect.getfile(cls)).stem.split("_")[0]


@pytest.fixture
def make(special: dict[Any, dict[str, Any]]) -> Any:
    def made(cls: Any, tokens: bool) -> tuple[Encoder, Inputs]:
        option = {"tokens": True} if tokens else {}
        inputs = make_inputs(modality_of(cls), BATCH)
        if cls is TimmImageEncoder:  # large enough for a map of more than one cell
            inputs = each(inputs, lambda x: x.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
        return build(cls, **special.get(cls, {}), **option), inputs

    return made


def each(inputs: Inputs, change: Any) -> Inputs:
    """Apply to the tensor, or to every tensor of the dict."""
    return {k: change(v) for k, v in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def values_of(feature: Feature) -> Tensor:
    """All numbers that anything behind the encoder may read: the model puts zeros in padding."""
    return feature.values * feature.mask[:, :, None] if isinstance(feature, Tokens) else feature


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
def test_shape_and_finite(cls: Any, tokens: bool, make: Any, training: bool) -> None:
    encoder, inputs = make(cls, tokens)
    found = encoder.train(training)(inputs)
    assert encoder.tokens == tokens == isinstance(found, Tokens)
    features = found
    if isinstance(found, Tokens):
        features = found.values
        assert found.mask.dtype == torch.bool
        assert found.mask.shape == features.shape[:2]
        assert found.mask.any(dim=1).all()
        assert features.shape[1] > 1
    assert (len(features), features.shape[-1]) == (BATCH, encoder.embedding_dim)
    assert features.ndim == 2 + tokens
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@ENCODERS
def test_starts_in_train_mode(cls: Any, tokens: bool, make: Any) -> None:
    assert all(module.training for module in make(cls, tokens)[0].modules())


@ENCODERS
def test_rows_do_not_see_each_other_in_eval(cls: Any, tokens: bool, make: Any) -> None:
    encoder, inputs = make(cls, tokens)
    encoder.eval()
    order = [2, 0, 3, 1]
    with torch.no_grad():
        features = values_of(encoder(inputs))
        moved = values_of(encoder(each(inputs, lambda x: x[order])))
        alone = values_of(encoder(each(inputs, lambda x: x[:1])))
    torch.testing.assert_close(moved, features[order])
    torch.testing.assert_close(alone, features[:1], rtol=1e-4, atol=1e-5)


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
def test_zeros_are_finite_both_ways(cls: Any, tokens: bool, make: Any, training: bool) -> None:
    """What `MultimodalModel` puts in the place of an absent sample: zeros, and a mask of ones."""
    encoder, inputs = make(cls, tokens)
    encoder.train(training)

    def blank(x: Tensor) -> Tensor:
        return x.index_fill(0, torch.tensor([1]), 0)

    inputs = each(inputs, blank)
    if isinstance(inputs, dict):
        inputs["attention_mask"][1] = 1
    features = values_of(encoder(inputs))
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@ENCODERS
def test_gradients_reach_every_parameter(cls: Any, tokens: bool, make: Any) -> None:
    """A parameter without a gradient is dead weight, and DDP refuses it."""
    encoder, inputs = make(cls, tokens)
    values_of(encoder(inputs)).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


@ENCODERS
def test_the_input_matters(cls: Any, tokens: bool, make: Any) -> None:
    encoder, inputs = make(cls, tokens)
    features = values_of(encoder.eval()(inputs))
    assert (features[0] - features[1]).abs().max() > 1e-6


@ENCODERS
def test_requirements_are_plain_values(cls: Any, tokens: bool, make: Any) -> None:
    requirements = dict(make(cls, tokens)[0].requirements)
    assert requirements
    assert json.loads(json.dumps(requirements)) == requirements


@ENCODERS
def test_state_dict_round_trip(cls: Any, tokens: bool, make: Any) -> None:
    (encoder, inputs), (twin, _) = make(cls, tokens), make(cls, tokens)
    for parameter in encoder.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    twin.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(values_of(twin.eval()(inputs)), values_of(encoder.eval()(inputs)))


@TOKENS
def test_tokens_are_told_apart(cls: Any, make: Any) -> None:
    """Each token says something of its own, and each row its own."""
    encoder, inputs = make(cls, True)
    values, mask = encoder.eval()(inputs)
    both = mask[:, 0] & mask[:, 1]
    assert both.any()
    assert ((values[both, 0] - values[both, 1]).abs().amax(dim=1) > 1e-6).all()


@TOKENS
def test_under_autocast_tokens_are_as_wide_as_the_vector(cls: Any, make: Any) -> None:
    (vector, inputs), (tokens, _) = make(cls, False), make(cls, True)
    with torch.autocast("cpu", torch.bfloat16):
        found = tokens(inputs).values
        assert found.dtype == vector(inputs).dtype
    assert found.isfinite().all()


@TOKENS
def test_the_mask_is_the_texts_own(cls: Any, make: Any) -> None:
    """Of a text the tokens of its attention mask are there; images and sounds have no padding."""
    encoder, inputs = make(cls, True)
    mask = encoder(inputs).mask
    assert torch.equal(mask, inputs["attention_mask"].bool() if isinstance(inputs, dict) else mask | True)


OWN_NAMES = {
    ByteTextCNN: ("embed", "first", "second", "project"),
    ImageCNN: ("layers.0", "layers.1", "layers.4", "layers.5", "layers.8", "layers.9", "layers.13"),
    LogMelCNN: ("layers.0", "layers.2", "layers.3", "layers.6", "layers.7", "layers.12"),
}
"""Layers with parameters as they were before there were tokens: checkpoints hold these names."""


@pytest.mark.parametrize("cls", OWN_NAMES)
def test_a_vector_encoder_has_the_parameters_of_old_checkpoints(cls: Any) -> None:
    found = {name.rpartition(".")[0] for name in build(cls).state_dict()}
    assert found == set(OWN_NAMES[cls])
