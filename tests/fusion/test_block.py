"""Block-superdiagonal fusion against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import BLOCKFusion
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

OUT, CORE = 7, 12


def block(
    w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], chunks: int, rank: int
) -> Array:
    """Ben-younes et al. (1902.00038), section 3: one row, one chunk and one rank at a time."""
    size, rows = CORE // chunks, []
    for i in range(BATCH):
        parts = []
        for c in range(chunks):
            z = np.zeros(size)
            for r in range(rank):
                product = np.ones(size)
                for m in features:
                    if present[m][i]:
                        v = (w[f"project.{m}.weight"] @ features[m][i])[c * size : (c + 1) * size]
                        a = w[f"core.{m}"][c][:, r * size : (r + 1) * size]
                        product = product * (v @ a)
                z += product
            parts.append(power_normalized(z))
        rows.append(w["out.weight"] @ np.concatenate(parts) + w["out.bias"])
    return np.stack(rows)


@COUNTS
@HOLES
@pytest.mark.parametrize(("chunks", "rank"), [(1, 1), (1, 3), (3, 2), (4, 1)])
def test_formula(count: int, holes: bool, chunks: int, rank: int) -> None:
    widths, features, present = sample(count, holes)
    head = BLOCKFusion(widths, output_dim=OUT, core_dim=CORE, chunks=chunks, rank=rank)
    expected = block(values(head), features, present, chunks, rank)
    compared(type(head), run(head, features, present), expected, rtol=1e-9)


def read_chunks(head: BLOCKFusion, features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """What is in front of the last layer: "batch chunks size"."""
    head.out.weight.data.copy_(head.out.weight.new_tensor(np.eye(CORE)))
    head.out.bias.data.zero_()
    return run(head, features, present).reshape(BATCH, head.chunks, -1)


def test_the_core_tensor_is_block_superdiagonal() -> None:
    """The whole tensor, with zeros off the blocks, contracted: x|x| is that, up to the scale of a chunk."""
    chunks, rank, size = 3, 2, CORE // 3
    widths, features, present = sample(2, holes=False)
    head = BLOCKFusion(widths, output_dim=CORE, core_dim=CORE, chunks=chunks, rank=rank)
    w = values(head)
    first, second = widths
    core = np.zeros((CORE, CORE, CORE))
    for c in range(chunks):
        at = slice(c * size, (c + 1) * size)
        a, b = (w[f"core.{m}"][c].reshape(size, rank, size) for m in widths)
        core[at, at, at] = np.einsum("iro,jro->ijo", a, b)
    assert (core != 0).mean() == 1 / chunks**2
    v1, v2 = (
        features[first] @ w[f"project.{first}.weight"].T,
        features[second] @ w[f"project.{second}.weight"].T,
    )
    z = np.einsum("ijo,bi,bj->bo", core, v1, v2).reshape(BATCH, chunks, size)
    u = read_chunks(head, features, present)
    np.testing.assert_allclose((u**2).sum(axis=2), 1, rtol=1e-12)
    np.testing.assert_allclose(u * np.abs(u), z / np.abs(z).sum(axis=2, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_chunks_meet_only_their_like(chunk: int) -> None:
    """Without one chunk of one modality, that chunk is zero and no other one changes."""
    size = CORE // 3
    widths, features, present = sample(2, holes=False)
    head = BLOCKFusion(widths, output_dim=CORE, core_dim=CORE, chunks=3, rank=2)
    values(head)
    before = read_chunks(head, features, present)
    head.project["text"].weight.data[chunk * size : (chunk + 1) * size] = 0
    after = read_chunks(head, features, present)
    changed = [bool((before[:, c] != after[:, c]).any()) for c in range(3)]
    assert changed == [c == chunk for c in range(3)]
    assert (after[:, chunk] == 0).all()


@pytest.mark.parametrize("options", [{"core_dim": 0}, {"chunks": 0}, {"rank": 0}, {"chunks": 7}])
def test_refuses(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ConfigError, match=rf"BLOCKFusion\.{name}: found.* {value}"):
        BLOCKFusion(WIDTHS, **options)
