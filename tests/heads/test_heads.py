"""Task heads: their contract, and their formulas in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import ConcatFusion, LateFusion
from lightning_distill.heads import LinearHead, MLPHead
from tests.builders import make_batch, make_model
from tests.fusion.reference import gelu
from tests.shelves import build, concrete

HEADS = pytest.mark.parametrize("cls", concrete("heads"))


@HEADS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_dtype_and_gradients(cls: Any, dtype: torch.dtype) -> None:
    head = build(cls, 6, 3).to(dtype)
    x = torch.randn(5, 6, dtype=dtype, requires_grad=True)
    y = head(x)
    assert y.shape == (5, 3)
    assert y.dtype == dtype
    y.square().sum().backward()
    for name, tensor in [("x", x), *head.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


@HEADS
def test_rows_do_not_see_each_other(cls: Any) -> None:
    head, x = build(cls, 6, 3).double().eval(), torch.randn(5, 6).double()
    torch.testing.assert_close(head(x[2:3]), head(x)[2:3])


@HEADS
def test_state_dict_round_trip(cls: Any) -> None:
    head, twin, x = build(cls, 6, 3).eval(), build(cls, 6, 3).eval(), torch.randn(5, 6)
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin(x), head(x))


@HEADS
def test_in_a_model(cls: Any) -> None:
    model = make_model(head=cls).eval()
    output = model(make_batch())
    assert isinstance(model.head, cls)
    assert torch.equal(output.logits, model.head(output.embedding))


def test_linear() -> None:
    head, x = LinearHead(6, 3).double(), np.random.default_rng(0).normal(size=(5, 6))
    w, b = (p.detach().numpy() for p in head.parameters())
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), x @ w.T + b, rtol=1e-12)
    assert list(head.state_dict()) == ["weight", "bias"]


def test_mlp() -> None:
    head = MLPHead(6, 3, hidden_dim=7, dropout=0.5).double().eval()
    x = np.random.default_rng(0).normal(size=(5, 6))
    w = {name: p.detach().numpy() for name, p in head.named_parameters()}
    hidden = x @ w["hidden.weight"].T + w["hidden.bias"]
    expected = gelu(hidden) @ w["output.weight"].T + w["output.bias"]
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)


def test_dropout_of_the_mlp_acts_in_training_only() -> None:
    head, x = MLPHead(6, 3, dropout=0.5), torch.randn(5, 6)
    assert not torch.equal(head(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


@pytest.mark.parametrize("options", [{"hidden_dim": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"MLPHead\.{next(iter(options))}"):
        MLPHead(6, 3, **options)


def test_an_mlp_lets_a_concatenation_interact() -> None:
    """f(a, b) - f(a, b') - f(a', b) + f(a', b') is 0 for whatever only adds up."""

    def interaction(model: Any) -> float:
        batch, other = make_batch(size=8), make_batch(size=8)

        def logits(a: Any, b: Any) -> torch.Tensor:
            mixed = {**batch, "inputs": {"a": a["inputs"]["a"], "b": b["inputs"]["b"]}}
            return model(mixed).logits

        mixed = logits(batch, batch) - logits(batch, other) - logits(other, batch) + logits(other, other)
        return float(mixed.detach().abs().max())

    assert interaction(make_model(fusion=ConcatFusion).eval()) < 1e-5
    assert interaction(make_model(fusion=LateFusion).eval()) < 1e-5
    assert interaction(make_model(head=MLPHead).eval()) > 1e-3
