"""Factorized bilinear pooling against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import MFBFusion
from tests.fusion.reference import (
    BATCH,
    COUNTS,
    HOLES,
    WIDTHS,
    Array,
    Mask,
    power_normalized,
    run,
    sample,
    values,
)
from tests.verification import compared


def products(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """U^T x * V^T y * ... of one row after the other, over the modalities there."""
    rows = []
    for i in range(BATCH):
        here = [w[f"project.{m}.weight"] @ features[m][i] for m in features if present[m][i]]
        rows.append(np.prod(here, axis=0))
    return np.stack(rows)


def pooled(p: Array, out: int, factor: int) -> Array:
    """SumPool: non-overlapping windows of `factor` neighbours."""
    return np.stack([p[:, o * factor : (o + 1) * factor].sum(axis=1) for o in range(out)], axis=1)


@COUNTS
@HOLES
@pytest.mark.parametrize("factor", [1, 2, 5])
def test_formula(count: int, holes: bool, factor: int) -> None:
    """Yu et al. (1708.01471), section 3."""
    widths, features, present = sample(count, holes)
    head = MFBFusion(widths, output_dim=7, factor=factor)
    expected = power_normalized(pooled(products(values(head), features, present), 7, factor))
    compared(type(head), run(head, features, present), expected, rtol=1e-10)
    assert not any("bias" in name for name, _ in head.named_parameters())


def test_each_entry_is_a_bilinear_form_of_rank_factor() -> None:
    """z_o = a^T F_o b with F_o = sum_j u_oj v_oj^T; x|x| is z, up to the scale of its row."""
    widths = {"image": 6, "text": 4}
    head = MFBFusion(widths, output_dim=5, factor=3)
    w = values(head)
    u, v = (w[f"project.{m}.weight"].reshape(5, 3, -1) for m in widths)
    form = np.einsum("oji,ojk->oik", u, v)
    assert [np.linalg.matrix_rank(f) for f in form] == [3] * 5
    rng = np.random.default_rng(0)
    features = {m: rng.normal(size=(BATCH, d)) for m, d in widths.items()}
    x = run(head, features, {m: np.ones(BATCH, bool) for m in widths})
    z = np.einsum("oik,bi,bk->bo", form, features["image"], features["text"])
    np.testing.assert_allclose(x * np.abs(x), z / np.abs(z).sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose((x**2).sum(axis=1), 1, rtol=1e-12)


def test_with_factor_one_it_is_the_product_of_projections() -> None:
    """Low-rank bilinear pooling without tanh, once the normalisation is undone."""
    widths, features, present = sample(3, holes=True)
    head = MFBFusion(widths, output_dim=7, factor=1)
    z = products(values(head), features, present)
    x = run(head, features, present)
    np.testing.assert_allclose(x * np.abs(x), z / np.abs(z).sum(axis=1, keepdims=True), atol=1e-5)


def test_dropout_comes_before_the_sum() -> None:
    widths, features, present = sample(2, holes=True)
    head = MFBFusion(widths, output_dim=7, factor=3, dropout=0.5)
    w = values(head)
    torch.manual_seed(3)
    found = run(head, features, present)
    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones(BATCH, 21, dtype=torch.float64), 0.5).numpy()
    expected = power_normalized(pooled(products(w, features, present) * kept, 7, 3))
    assert {0.0, 2.0} == set(kept.flatten())
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("options", [{"factor": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"MFBFusion.{next(iter(options))}"):
        MFBFusion(WIDTHS, **options)
