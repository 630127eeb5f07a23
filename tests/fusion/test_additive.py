"""Heads that add up, against their formulas in float64 NumPy, and where they become one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.fusion import MeanFusion, SumFusion, WeightedFusion
from tests.fusion.reference import COUNTS, HOLES, Array, Mask, run, sample, softmax, values
from tests.verification import FORMULA, compared

HEADS = pytest.mark.parametrize("cls", [SumFusion, MeanFusion, WeightedFusion])


def parts(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], i: int) -> list[Array]:
    """W_m x_m + b_m of each modality that the sample has."""
    return [
        w[f"project.{m}.weight"] @ features[m][i] + w["bias"][k]
        for k, m in enumerate(features)
        if present[m][i]
    ]


def rows_of(present: dict[str, Mask]) -> range:
    return range(len(next(iter(present.values()))))


@COUNTS
@HOLES
def test_sum(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = SumFusion(widths, output_dim=6)
    w = values(head)
    expected = [sum(parts(w, features, present, i), np.zeros(6)) for i in rows_of(present)]
    compared(type(head), run(head, features, present), np.stack(expected), rtol=1e-10, atol=1e-12, by=FORMULA)


@COUNTS
@HOLES
def test_mean(count: int, holes: bool) -> None:
    """Havaei et al. (1607.05194): over the modalities that a sample has, not over all."""
    widths, features, present = sample(count, holes)
    head = MeanFusion(widths, output_dim=6)
    w = values(head)
    expected = [np.mean(parts(w, features, present, i), axis=0) for i in rows_of(present)]
    compared(type(head), run(head, features, present), np.stack(expected), rtol=1e-10, atol=1e-12, by=FORMULA)


@COUNTS
@HOLES
def test_weighted(count: int, holes: bool) -> None:
    """Peters et al. (1802.05365), equation 1, with the softmax over what a sample has."""
    widths, features, present = sample(count, holes)
    head = WeightedFusion(widths, output_dim=6)
    w, rows = values(head), []
    for i in rows_of(present):
        here = [k for k, m in enumerate(widths) if present[m][i]]
        a = softmax(w["scores"][here]) if count > 1 else np.ones(1)
        rows.append(a @ np.stack(parts(w, features, present, i)))
    compared(type(head), run(head, features, present), np.stack(rows), rtol=1e-10, atol=1e-12, by=FORMULA)


@HOLES
def test_weighted_starts_as_the_mean(holes: bool) -> None:
    widths, features, present = sample(3, holes)
    mean, weighted = MeanFusion(widths, output_dim=6), WeightedFusion(widths, output_dim=6)
    values(mean)
    found = weighted.load_state_dict(mean.state_dict(), strict=False)
    assert found == (["scores"], [])
    np.testing.assert_allclose(
        run(weighted, features, present), run(mean, features, present), rtol=1e-10, atol=1e-12
    )


def test_a_high_score_leaves_one_modality_alone() -> None:
    """And where a sample lacks that one, the others are as if it did not exist."""
    widths, features, present = sample(3, holes=True)
    head = WeightedFusion(widths, output_dim=6)
    w = values(head)
    with torch.no_grad():
        head.scores.copy_(torch.tensor([0.0, 200.0, 0.0]))
    x, (first, high, last) = run(head, features, present), widths
    for i in rows_of(present):
        only = {m: p & (m == high or not present[high][i]) for m, p in present.items()}
        np.testing.assert_allclose(x[i], np.mean(parts(w, features, only, i), axis=0), rtol=1e-10, atol=1e-12)
    assert (present[first] & present[last] & ~present[high]).any()


def test_weights_depend_on_differences_of_scores_only() -> None:
    widths, features, present = sample(3, holes=True)
    head = WeightedFusion(widths, output_dim=6)
    values(head)
    before = run(head, features, present)
    with torch.no_grad():
        head.scores += 5.0
    np.testing.assert_allclose(run(head, features, present), before, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        head.scores[0] += 5.0
    assert not np.allclose(run(head, features, present), before)


@HEADS
@pytest.mark.parametrize("only", [0, 1, 2])
def test_one_modality_alone_is_its_linear_map(cls: Any, only: int) -> None:
    widths, features, everyone = sample(3, holes=False)
    head, name = cls(widths, output_dim=6), list(widths)[only]
    w = values(head)
    present = {m: p & (m == name) for m, p in everyone.items()}
    expected = features[name] @ w[f"project.{name}.weight"].T + w["bias"][only]
    compared(type(head), run(head, features, present), expected, rtol=1e-10, atol=1e-12, by=FORMULA)


def test_the_sum_of_all_is_one_layer_on_the_concatenation() -> None:
    widths, features, present = sample(3, holes=False)
    head = SumFusion(widths, output_dim=6)
    w = values(head)
    weight = np.concatenate([w[f"project.{m}.weight"] for m in widths], axis=1)
    expected = np.concatenate(list(features.values()), axis=1) @ weight.T + w["bias"].sum(axis=0)
    compared(type(head), run(head, features, present), expected, rtol=1e-10, atol=1e-12, by=FORMULA)


def test_of_one_modality_there_is_no_weight_to_learn() -> None:
    assert "scores" not in dict(WeightedFusion({"image": 5}).named_parameters())
    assert "scores" in dict(WeightedFusion({"image": 5, "text": 3}).named_parameters())
