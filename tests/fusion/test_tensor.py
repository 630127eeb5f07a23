"""Tensor fusion against the outer product, written in float64 NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import TensorFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, Mask, run, sample, values
from tests.verification import compared

OUT, FACTOR = 6, 2


def reference(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """Zadeh et al. (1707.07250), section 4.2, one sample and one product of entries at a time."""
    names, rows = list(features), []
    for i in range(BATCH):
        factors = []
        for m in names:
            h = w[f"project.{m}.weight"] @ features[m][i] + w[f"project.{m}.bias"]
            factors.append([1.0, *(h if present[m][i] else np.zeros(FACTOR))])
        z = [np.prod(entries) for entries in itertools.product(*factors)]  # the last one runs fastest
        rows.append(w["output.weight"] @ np.array(z) + w["output.bias"])
    return np.stack(rows)


@COUNTS
@HOLES
def test_tensor_fusion(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = TensorFusion(widths, output_dim=OUT, factor_dim=FACTOR)
    expected = reference(values(head), features, present)
    compared(type(head), run(head, features, present), expected, rtol=1e-11)


@COUNTS
def test_weights_of_the_products_with_one_make_it_a_linear_map(count: int) -> None:
    """In every order of modalities, so that it is the 1 that comes first, not last."""
    widths, features, present = sample(count, holes=False)
    head = TensorFusion(widths, output_dim=OUT, factor_dim=FACTOR)
    w = values(head)
    side = FACTOR + 1
    kept = np.zeros((OUT, *[side] * count))
    expected = np.tile(w["output.bias"], (BATCH, 1))
    for k, m in enumerate(widths):
        rng = np.random.default_rng(k)
        linear = rng.normal(size=(OUT, FACTOR))
        at: list[Any] = [0] * count
        at[k] = slice(1, None)
        kept[(slice(None), *at)] = linear
        h = features[m] @ w[f"project.{m}.weight"].T + w[f"project.{m}.bias"]
        expected = expected + h @ linear.T
    with torch.no_grad():
        head.double().output.weight.copy_(torch.from_numpy(kept.reshape(OUT, -1)))
    compared(type(head), run(head, features, present), expected, rtol=1e-11)


def test_too_many_weights_name_the_way_out() -> None:
    widths = {f"sensor_{i}": 4 for i in range(6)}
    with pytest.raises(ConfigError, match=f"{17**6 * 128} weights.*LowRankFusion"):
        TensorFusion(widths)
    with pytest.raises(ConfigError, match=f"at most {2**28}"):
        TensorFusion({"image": 4}, output_dim=2, factor_dim=2**27)


def test_the_largest_that_is_allowed() -> None:
    with torch.device("meta"):
        head = TensorFusion({"image": 4}, output_dim=2, factor_dim=2**27 - 1)
    assert head.output.weight.numel() == 2**28


@pytest.mark.parametrize("factor_dim", [0, -1])
def test_a_factor_without_width_is_refused(factor_dim: int) -> None:
    with pytest.raises(ConfigError, match=r"TensorFusion\.factor_dim"):
        TensorFusion(WIDTHS, factor_dim=factor_dim)
