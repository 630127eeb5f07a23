"""Low-rank bilinear pooling against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import MLBFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, Mask, run, sample, values
from tests.verification import compared


def joint(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """Kim et al. (1610.04325), section 3.2: entry k is the product of tanh(w_mk . x_m + b_mk)."""
    hidden = len(w["out.weight"][0])
    product = np.ones((BATCH, hidden))
    for i in range(BATCH):
        for k in range(hidden):
            for m in features:
                if present[m][i]:
                    weight, bias = w[f"project.{m}.weight"][k], w[f"project.{m}.bias"][k]
                    product[i, k] *= np.tanh(weight @ features[m][i] + bias)
    return product


@COUNTS
@HOLES
def test_formula(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = MLBFusion(widths, output_dim=7, hidden_dim=6)
    w = values(head)
    expected = joint(w, features, present) @ w["out.weight"].T + w["out.bias"]
    compared(type(head), run(head, features, present), expected, rtol=1e-12)


def test_each_entry_is_a_bilinear_form_of_rank_hidden_dim() -> None:
    """Of small features, where tanh is the identity: x_o = a^T (U diag(P_o) V^T) b."""
    widths = {"image": 5, "text": 4}
    head = MLBFusion(widths, output_dim=3, hidden_dim=2)
    for bias in (head.project["image"].bias, head.project["text"].bias, head.out.bias):
        torch.nn.init.zeros_(bias)
    w = {name: p.detach().double().numpy() for name, p in head.named_parameters()}
    form = np.einsum("ok,ki,kj->oij", w["out.weight"], w["project.image.weight"], w["project.text.weight"])
    scale, eye = 1e-4, np.eye(20)
    a, b = np.repeat(np.eye(5), 4, axis=0), np.tile(np.eye(4), (5, 1))
    there = {m: np.ones(len(eye), bool) for m in widths}
    found = run(head, {"image": scale * a, "text": scale * b}, there) / scale**2
    np.testing.assert_allclose(found.T.reshape(3, 5, 4), form, rtol=1e-5)
    assert all(np.linalg.matrix_rank(found.T.reshape(3, 5, 4)[o], tol=1e-6) == 2 for o in range(3))


def test_dropout_is_of_the_product() -> None:
    widths, features, present = sample(2, holes=True)
    head = MLBFusion(widths, output_dim=7, hidden_dim=6, dropout=0.5)
    w = values(head)
    torch.manual_seed(3)
    found = run(head, features, present)
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones(BATCH, 6, dtype=torch.float64), 0.5).numpy()
    expected = joint(w, features, present) * kept @ w["out.weight"].T + w["out.bias"]
    assert {0.0, 2.0} == set(kept.flatten())
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("options", [{"hidden_dim": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"MLBFusion.{next(iter(options))}"):
        MLBFusion(WIDTHS, **options)
