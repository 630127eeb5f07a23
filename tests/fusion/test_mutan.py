"""Tucker fusion against its formula and against the whole core tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import MUTANFusion
from tests.fusion.reference import BATCH, COUNTS, HOLES, WIDTHS, Array, Mask, run, sample, values
from tests.verification import compared

OUT, CORE = 7, 6


def mutan(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], rank: int) -> Array:
    """Ben-younes et al. (1705.06676), section 3.2, one row and one rank at a time."""
    rows = []
    for i in range(BATCH):
        z = np.zeros(OUT)
        for r in range(rank):
            product = np.ones(OUT)
            for m in features:
                if present[m][i]:
                    v = np.tanh(w[f"project.{m}.weight"] @ features[m][i])
                    product = product * (w[f"core.{m}.weight"][r * OUT : (r + 1) * OUT] @ v)
            z += product
        rows.append(z)
    return np.stack(rows)


@COUNTS
@HOLES
@pytest.mark.parametrize("rank", [1, 3])
def test_formula(count: int, holes: bool, rank: int) -> None:
    widths, features, present = sample(count, holes)
    head = MUTANFusion(widths, output_dim=OUT, core_dim=CORE, rank=rank)
    expected = mutan(values(head), features, present, rank)
    compared(type(head), run(head, features, present), expected, rtol=1e-10)
    assert not any("bias" in name for name, _ in head.named_parameters())


@pytest.mark.parametrize("count", [2, 3])
def test_it_contracts_a_tucker_core(count: int) -> None:
    """The core tensor is built in full, a sum of outer products for each slice, then contracted."""
    rank = 4
    widths, features, present = sample(count, holes=False)
    head = MUTANFusion(widths, output_dim=OUT, core_dim=CORE, rank=rank)
    w = values(head)
    core = np.zeros((OUT, *[CORE] * count))
    for o in range(OUT):
        for r in range(rank):
            outer = np.ones(())
            for m in widths:
                outer = np.multiply.outer(outer, w[f"core.{m}.weight"][r * OUT + o])
            core[o] += outer
    letters = "ijk"[:count]
    v = [np.tanh(features[m] @ w[f"project.{m}.weight"].T) for m in widths]
    contraction = f"o{letters},{','.join('b' + c for c in letters)}->bo"
    expected = np.einsum(contraction, core, *v)
    compared(type(head), run(head, features, present), expected, rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_each_slice_of_the_core_has_that_rank(rank: int) -> None:
    """The core as the head answers for all pairs of unit vectors, W being the identity."""
    widths = {"image": CORE, "text": CORE}
    head = MUTANFusion(widths, output_dim=OUT, core_dim=CORE, rank=rank)
    values(head)
    for m in widths:
        head.project[m].weight.data.copy_(head.project[m].weight.new_tensor(np.eye(CORE)))
    unit = np.arctanh(0.5) * np.eye(CORE)
    features = {"image": np.repeat(unit, CORE, axis=0), "text": np.tile(unit, (CORE, 1))}
    found = 4 * run(head, features, {m: np.ones(CORE**2, bool) for m in widths})
    slices = found.T.reshape(OUT, CORE, CORE)
    assert [np.linalg.matrix_rank(s, tol=1e-9) for s in slices] == [rank] * OUT


@pytest.mark.parametrize("options", [{"core_dim": 0}, {"rank": 0}])
def test_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"MUTANFusion\.{next(iter(options))}: found 0"):
        MUTANFusion(WIDTHS, **options)
