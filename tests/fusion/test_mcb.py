"""Compact bilinear pooling against its formula, and what the sketch promises."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import MCBFusion, compact_bilinear, count_sketch
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

OUT = 7


def hashes(head: MCBFusion) -> dict[str, tuple[Array, Array]]:
    """Modality -> index and sign."""
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    return {m: (state[f"sketch.{m}.index"], state[f"sketch.{m}.sign"]) for m in head.modalities}


def mcb(head: MCBFusion, features: dict[str, Array], present: dict[str, Mask], width: int) -> Array:
    """Fukui et al. (1606.01847), section 3.1, by the outer product: each of its entries on its own."""
    w, drawn = values(head), hashes(head)
    rows = []
    for i in range(BATCH):
        here = [m for m in features if present[m][i]]
        z = np.zeros(width)
        for entries in product(*[range(len(features[m][i])) for m in here]):
            at, value = 0, 1.0
            for m, entry in zip(here, entries, strict=True):
                index, sign = drawn[m]
                at += int(index[entry])
                value *= sign[entry] * features[m][i][entry]
            z[at % width] += value
        rows.append(w["out.weight"] @ power_normalized(z) + w["out.bias"])
    return np.stack(rows)


@COUNTS
@HOLES
@pytest.mark.parametrize("width", [13, 16])
def test_formula(count: int, holes: bool, width: int) -> None:
    widths, features, present = sample(count, holes)
    head = MCBFusion(widths, output_dim=OUT, sketch_dim=width)
    expected = mcb(head, features, present, width)
    compared(type(head), run(head, features, present), expected, rtol=1e-9)


def draw(rng: np.random.Generator, dim: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rng.integers(width, size=dim)), torch.from_numpy(
        rng.choice([-1.0, 1.0], size=dim)
    )


@pytest.mark.parametrize("width", [1, 2, 7, 16])
@pytest.mark.parametrize("dims", [(4,), (5, 3), (4, 3, 2)])
def test_convolved_sketches_are_the_sketch_of_the_outer_product(width: int, dims: tuple[int, ...]) -> None:
    rng = np.random.default_rng(width)
    drawn = [draw(rng, dim, width) for dim in dims]
    x = [torch.from_numpy(rng.normal(size=(2, dim))) for dim in dims]
    outer, index, sign = torch.ones(2, 1).double(), torch.zeros(1).long(), torch.ones(1).double()
    for (h, s), values_of in zip(drawn, x, strict=True):
        outer = (outer[:, :, None] * values_of[:, None, :]).flatten(1)
        index = (index[:, None] + h).flatten() % width
        sign = (sign[:, None] * s).flatten()
    found = compact_bilinear([count_sketch(v, h, s, width) for v, (h, s) in zip(x, drawn, strict=True)])
    torch.testing.assert_close(found, count_sketch(outer, index, sign, width), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("names", [("image",), ("image", "text"), ("audio", "image", "text")])
def test_inner_products_are_kept_on_average(names: tuple[str, ...]) -> None:
    """E <z, z'> = prod_m <x_m, x_m'> over the seeds of the head; any factor on z would show."""
    rng = np.random.default_rng(0)
    x = {m: torch.from_numpy(rng.normal(size=(1, 6))) for m in names}
    y = {m: x[m] + 0.5 * torch.from_numpy(rng.normal(size=(1, 6))) for m in names}
    expected = float(np.prod([(x[m] * y[m]).sum() for m in names]))
    found = []
    for seed in range(3000):
        head = MCBFusion(dict.fromkeys(names, 6), output_dim=1, sketch_dim=32, seed=seed)
        z, other = (compact_bilinear([head.sketch[m](v[m]) for m in names]) for v in (x, y))
        found.append(float((z * other).sum()))
    error = np.std(found) / np.sqrt(len(found))
    assert error < 0.03 * abs(expected)
    assert abs(np.mean(found) - expected) < 4 * error


def test_index_and_sign_are_uniform() -> None:
    """Counts of a binomial within five standard deviations."""
    (index, sign) = hashes(MCBFusion({"image": 8000}, sketch_dim=8))["image"]
    counts = np.bincount(index.astype(int), minlength=8)
    assert len(counts) == 8
    assert (np.abs(counts - 1000) < 5 * np.sqrt(8000 * 1 / 8 * 7 / 8)).all()
    assert set(sign) == {-1.0, 1.0}
    assert abs(sign.sum()) < 5 * np.sqrt(8000)
    assert abs((sign * (index - 3.5)).sum()) < 5 * np.sqrt(8000 * 5.25)


def test_the_sketch_depends_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    head = MCBFusion({"image": 30, "text": 30}, seed=4)
    torch.manual_seed(2)
    twin = MCBFusion({"audio": 3, "text": 30, "image": 30}, seed=4)
    other = MCBFusion({"image": 30, "text": 30}, seed=5)
    for m in ("image", "text"):
        for k in (0, 1):
            np.testing.assert_array_equal(hashes(head)[m][k], hashes(twin)[m][k])
            assert (hashes(head)[m][k] != hashes(other)[m][k]).any()
    for k in (0, 1):
        assert (hashes(head)["image"][k] != hashes(head)["text"][k]).any()


def test_the_sketch_is_in_the_state_dict() -> None:
    widths, features, present = sample(2, holes=True)
    head, other = MCBFusion(widths, seed=4), MCBFusion(widths, seed=5)
    other.load_state_dict(head.state_dict())
    np.testing.assert_array_equal(run(other, features, present), run(head, features, present))
    assert not any("sketch" in name for name, _ in head.named_parameters())


def test_bfloat16_is_summed_in_float32() -> None:
    """In bfloat16, 256 + 1 is 256."""
    ones = torch.ones(1, 300, dtype=torch.bfloat16)
    sketch = count_sketch(ones, torch.zeros(300).long(), torch.ones(300, dtype=torch.bfloat16), 2)
    assert sketch.dtype == torch.float32
    assert sketch.tolist() == [[300.0, 0.0]]


@pytest.mark.parametrize("options", [{"sketch_dim": 0}])
def test_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"MCBFusion\.sketch_dim"):
        MCBFusion(WIDTHS, **options)
