"""What modalities contribute to models for which the answer can be found by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_distill.contribution import contributions
from lightning_distill.encoders import Encoder
from lightning_distill.fusion import FusionHead
from lightning_distill.model import MultimodalModel
from lightning_distill.tasks import Classification, Regression
from tests.builders import VectorSource, make_data, make_trainer
from tests.test_contribution import FIRST, MESSY, ThreeSource, data_of_three, frequencies, model_of


class Added(FusionHead):
    """x = sum of W_m x_m over the modalities that are there."""

    def __init__(self, feature_dims: Mapping[str, int]) -> None:
        super().__init__(feature_dims, 8)
        self.parts = nn.ModuleDict({m: nn.Linear(d, 8, bias=False) for m, d in self.feature_dims.items()})

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return torch.stack([self.parts[m](features[m]) for m in self.modalities]).sum(dim=0)


class EachLogit(Classification):
    """Scores that are the logits themselves; the constant answer is 0.5 everywhere."""

    def scores(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {f"logit_{k}": column for k, column in enumerate(logits.unbind(dim=1))}

    def constant_logits(self, target: Tensor, num_outputs: int) -> Tensor:
        return torch.full((num_outputs,), 0.5).double()


def parts_of(model: Any, source: VectorSource, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each modality adds to the logits, 0 where absent, and how many modalities are there."""
    rows, parts = ids - 5000, {}
    for m in model.modalities:
        there = torch.from_numpy(source.samples.present[m])[rows]
        with torch.no_grad():
            feature = model.encoders[m].eval()(torch.from_numpy(source.vectors[m]).float()[rows])
            parts[m] = (model.fusion.parts[m](feature) @ model.head.weight.T).double() * there[:, None]
    count = torch.stack([torch.from_numpy(source.samples.present[m])[rows] for m in model.modalities])
    return parts, count.sum(dim=0)


def test_of_logits_that_add_up_each_modality_gets_its_own(tmp_path: Path) -> None:
    """phi_m = z_m + (b - c) / M for logits b + sum of z_m and a constant answer c."""
    source, model = ThreeSource(**MESSY), model_of("abc", Added)
    found = contributions(model, data_of_three(source), EachLogit(), "val", make_trainer(tmp_path))
    parts, count = parts_of(model, source, found.sample_id)
    bias = model.head.bias.detach().double()
    for m, z in parts.items():
        there = (z != 0).any(dim=1)
        for k in range(3):
            expected = torch.where(there, z[:, k] + (bias[k] - 0.5) / count, 0.0)
            torch.testing.assert_close(found.values[f"logit_{k}"][m], expected, rtol=1e-4, atol=1e-6)


def test_of_a_squared_error_each_modality_gets_its_share(tmp_path: Path) -> None:
    """phi_m = z_m (2 (t - b) - sum of z) + ((t - c)^2 - (t - b)^2) / M, by hand from (t - b - sum of z)^2."""
    target = np.random.default_rng(1).normal(size=(65, 1)).astype(np.float32)
    source, model = ThreeSource(target, **MESSY), model_of("abc", Added, 1)
    source.classes = ("height",)
    found = contributions(model, data_of_three(source), Regression(), "val", make_trainer(tmp_path))
    parts, count = parts_of(model, source, found.sample_id)
    t = torch.from_numpy(target).double()[found.sample_id - 5000, 0]
    rest, total = t - model.head.bias.item(), torch.stack(list(parts.values())).sum(dim=0)[:, 0]
    for m, z in parts.items():
        own = z[:, 0] * (2 * rest - total) + ((t - t.mean()).square() - rest.square()) / count
        expected = torch.where(z[:, 0] != 0, own, 0.0)
        torch.testing.assert_close(found.values["minus_squared_error"][m], expected, rtol=1e-4, atol=1e-5)


def test_a_modality_that_is_not_read_gets_nothing(tmp_path: Path) -> None:
    """Where the model alone with it says what the best constant answer says."""
    source, model = ThreeSource(val=37), model_of("abc", Added)
    with torch.no_grad():
        model.fusion.parts["c"].weight.zero_()
        model.head.bias.copy_(torch.from_numpy(frequencies(source.samples.target[FIRST:])))
    found = contributions(model, data_of_three(source), Classification(), "val", make_trainer(tmp_path))
    assert found.samples == 37
    for values in found.values.values():
        assert values["c"].abs().max() < 1e-6
        assert values["a"].abs().max() > 0.1


class FirstNumber(Encoder):
    """The first number of a vector."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1]


class Product(FusionHead):
    """The product where both are there, else 0."""

    def __init__(self, feature_dims: Mapping[str, int]) -> None:
        super().__init__(feature_dims, 1)

    def fuse(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return features["a"] * features["b"]


def test_of_an_exclusive_or_both_get_half(tmp_path: Path) -> None:
    """Signs a and b, class 1 where they differ: one of them alone tells nothing."""
    source = VectorSource(val=40)
    signs = np.random.default_rng(3).choice([-1.0, 1.0], size=(68, 2), p=[0.3, 0.7])
    for i, m in enumerate("ab"):
        source.vectors[m][:, 0] = signs[:, i]
    target = (signs.prod(axis=1) < 0).astype(np.int64)
    source._table, source.classes = replace(source.samples, target=target), ("even", "odd")
    model: Any = MultimodalModel({m: FirstNumber() for m in "ab"}, 2, Product)
    odd = int(target[FIRST:].sum())
    assert 0 < odd < 20
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[9.0], [-9.0]]))
        model.head.bias.copy_(torch.tensor([(40 - odd) / 40, odd / 40]).log())
    found = contributions(model, make_data(source), Classification(), "val", make_trainer(tmp_path))
    score = found.scores["accuracy"]
    assert (score.without_looking, score.everything) == pytest.approx((1 - odd / 40, 1.0))
    for m in "ab":
        assert torch.equal(found.values["accuracy"][m], torch.from_numpy(target[FIRST:]) / 2)
        assert score.means[m] == pytest.approx(odd / 80)
    likelihood = found.values["log_likelihood"]
    torch.testing.assert_close(likelihood["a"], likelihood["b"])
