"""What every encoder must do, whichever file it is in."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_distill.encoders import Encoder, TimmImageEncoder, TransformersTextEncoder
from lightning_distill.structures import Inputs
from tests.builders import make_inputs
from tests.encoders.pretrained import save_bert
from tests.shelves import build, concrete

ENCODERS = pytest.mark.parametrize("cls", concrete("encoders"))
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
    def made(cls: Any) -> tuple[Encoder, Inputs]:
        return build(cls, **special.get(cls, {})), make_inputs(modality_of(cls), BATCH)

    return made


def each(inputs: Inputs, change: Any) -> Inputs:
    """Apply to the tensor, or to every tensor of the dict."""
    return {k: change(v) for k, v in inputs.items()} if isinstance(inputs, dict) else change(inputs)


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
def test_shape_and_finite(cls: Any, make: Any, training: bool) -> None:
    encoder, inputs = make(cls)
    features = encoder.train(training)(inputs)
    assert features.shape == (BATCH, encoder.embedding_dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@ENCODERS
def test_starts_in_train_mode(cls: Any, make: Any) -> None:
    assert all(module.training for module in make(cls)[0].modules())


@ENCODERS
def test_rows_do_not_see_each_other_in_eval(cls: Any, make: Any) -> None:
    encoder, inputs = make(cls)
    encoder.eval()
    order = [2, 0, 3, 1]
    with torch.no_grad():
        features = encoder(inputs)
        torch.testing.assert_close(encoder(each(inputs, lambda x: x[order])), features[order])
        torch.testing.assert_close(encoder(each(inputs, lambda x: x[:1])), features[:1], rtol=1e-4, atol=1e-5)


@ENCODERS
@pytest.mark.parametrize("training", [True, False])
def test_zeros_are_finite_both_ways(cls: Any, make: Any, training: bool) -> None:
    """What `MultimodalModel` puts in the place of an absent sample: zeros, and a mask of ones."""
    encoder, inputs = make(cls)
    encoder.train(training)

    def blank(x: Tensor) -> Tensor:
        return x.index_fill(0, torch.tensor([1]), 0)

    inputs = each(inputs, blank)
    if isinstance(inputs, dict):
        inputs["attention_mask"][1] = 1
    features = encoder(inputs)
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


@ENCODERS
def test_gradients_reach_every_parameter(cls: Any, make: Any) -> None:
    """A parameter without a gradient is dead weight, and DDP refuses it."""
    encoder, inputs = make(cls)
    encoder(inputs).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


@ENCODERS
def test_the_input_matters(cls: Any, make: Any) -> None:
    encoder, inputs = make(cls)
    features = encoder.eval()(inputs)
    assert (features[0] - features[1]).abs().max() > 1e-6


@ENCODERS
def test_requirements_are_plain_values(cls: Any, make: Any) -> None:
    requirements = dict(make(cls)[0].requirements)
    assert requirements
    assert json.loads(json.dumps(requirements)) == requirements


@ENCODERS
def test_state_dict_round_trip(cls: Any, make: Any) -> None:
    (encoder, inputs), (twin, _) = make(cls), make(cls)
    for parameter in encoder.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    twin.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(twin.eval()(inputs), encoder.eval()(inputs))
