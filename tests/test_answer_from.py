"""Answers from some of the modalities alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping import BoundaryClip, FeatureClipChain, HardClip
from lightning_distill.fusion import FusionHead
from lightning_distill.structures import Tokens
from lightning_distill.units import StandardDeviation
from tests.builders import make_batch, make_model, weights_of
from tests.shelves import concrete

HEADS = pytest.mark.parametrize("fusion", concrete("fusion"))
SIZE = 4


@HEADS
def test_equals_the_answer_to_a_batch_that_lacks_the_others(fusion: Any) -> None:
    model, batch = make_model(fusion=fusion, feature_clip=HardClip(0.2)).eval(), make_batch(size=SIZE)
    output = model(batch)
    alone = {**batch, "present": {"a": batch["present"]["a"], "b": torch.zeros(SIZE, dtype=torch.bool)}}
    torch.testing.assert_close(model.answer_from(output, ("a",)), model(alone).logits, rtol=0, atol=0)
    assert torch.equal(model.answer_from(output, ("b", "a")), output.logits)
    assert torch.equal(model.answer(output.fused, output.present).logits, output.logits)


@HEADS
def test_rows_that_have_none_of_them_break_nothing(fusion: Any) -> None:
    """They are finite, move no gradient of the encoder, and leave the other rows as they are."""
    model, batch = make_model(fusion=fusion).eval(), make_batch(size=SIZE, absent={"a": [1, 3]})
    output = model(batch)
    logits = model.answer_from(output, ("a",))
    assert logits.isfinite().all()
    alone = {"a": batch["present"]["a"][[0, 2]], "b": torch.zeros(2, dtype=torch.bool)}
    some = {
        m: Tokens(x.values[[0, 2]], x.mask[[0, 2]]) if isinstance(x, Tokens) else x[[0, 2]]
        for m, x in output.fused.items()
    }
    there = model.answer(some, alone).logits
    torch.testing.assert_close(logits[[0, 2]], there)
    model.zero_grad()
    logits[[1, 3]].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoders["a"].parameters())


def test_gradients_reach_the_named_encoders_only() -> None:
    model, batch = make_model().train(), make_batch(size=SIZE)
    output = model(batch)
    model.answer_from(output, ("b",)).sum().backward()
    assert all(p.grad is None for p in model.encoders["a"].parameters())
    assert all(p.grad is not None for p in model.encoders["b"].parameters())
    assert model.head.weight.grad is not None


class NormFusion(FusionHead):
    """A sum, normalised over the batch: batch statistics to be moved."""

    def __init__(self, feature_dims: Mapping[str, int]) -> None:
        super().__init__(feature_dims, 8)
        self.norm = nn.BatchNorm1d(8)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return self.norm(sum(features.values()))


def test_moves_neither_batch_statistics_nor_units() -> None:
    clip = FeatureClipChain([HardClip(1.0, StandardDeviation()), BoundaryClip(1.0, StandardDeviation())])
    model = make_model(fusion=NormFusion, feature_clip=clip).train()
    output = model(make_batch(size=SIZE))
    output.logits.square().sum().backward(retain_graph=True)
    before = weights_of(model)
    model.answer_from(output, ("a",)).square().sum().backward()
    after = weights_of(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert all(p.grad is not None for p in model.fusion.parameters())
    assert model.training
    assert clip.training


def test_a_name_that_is_none_is_refused() -> None:
    model, batch = make_model(), make_batch(size=SIZE)
    output = model(batch)
    with pytest.raises(ConfigError, match=r"answer_from: found modality 'audio'"):
        model.answer_from(output, ("a", "audio"))
    with pytest.raises(ConfigError, match="no modality"):
        model.answer_from(output, ())
