"""The multimodal bottleneck transformer (MBT), against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import BottleneckFusion
from tests.fusion.reference import (
    BATCH,
    COUNTS,
    HOLES,
    WIDTHS,
    Array,
    Mask,
    Sequences,
    run,
    token_sample,
    values,
)
from tests.fusion.transformer_reference import (
    PADDED,
    check_dropout,
    drawn,
    layer_norm,
    linear,
    self_attention,
)
from tests.verification import compared


def mbt(
    w: dict[str, Array],
    features: dict[str, Sequences],
    present: dict[str, Mask],
    heads: int,
    layers: int,
    fusion_layer: int,
) -> Array:
    """Nagrani et al. (2107.00135), section 3, one row and one modality at a time, all of every layer."""
    names, rows = list(features), []
    for i in range(BATCH):
        z = {}
        for k, m in enumerate(names):
            x, mask = features[m]
            if present[m][i]:
                tokens = [linear(w, f"project.{m}", x[i, t]) for t in range(x.shape[1]) if mask[i, t]]
                z[m] = np.stack([w["class_tokens"][k], *tokens])
        shared = w.get("bottlenecks")
        for n in range(layers):
            if shared is None or n < fusion_layer:
                z = {m: self_attention(w, f"layers.{n}.{m}", t, heads) for m, t in z.items()}
                continue
            written = []
            for m, t in z.items():
                both = self_attention(w, f"layers.{n}.{m}", np.concatenate([t, shared]), heads)
                z[m] = both[: len(t)]
                written.append(both[len(t) :])
            shared = sum(written) / len(written)
        rows.append(sum(layer_norm(w, "norm", t)[0] for t in z.values()) / len(z))
    return np.stack(rows)


@COUNTS
@HOLES
@PADDED
@pytest.mark.parametrize(
    ("layers", "fusion_layer", "bottlenecks"), [(2, 0, 4), (3, 1, 2), (3, 0, 1), (1, 0, 0), (2, 1, 0)]
)
def test_bottleneck(
    count: int, holes: bool, padded: bool, layers: int, fusion_layer: int, bottlenecks: int
) -> None:
    widths, features, present = drawn(count, holes, padded)
    head = BottleneckFusion(widths, 8, bottlenecks, layers, fusion_layer, num_heads=2)
    expected = mbt(values(head), features, present, 2, layers, fusion_layer)
    compared(type(head), run(head, features, present), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bottlenecks", [0, 3])
@pytest.mark.parametrize("layers", [2, 3])
def test_without_bottlenecks_it_is_the_mean_of_each_alone(bottlenecks: int, layers: int) -> None:
    widths, features, present = token_sample(3, holes=False)
    head = BottleneckFusion(widths, 8, bottlenecks, layers)
    values(head)
    nobody = {m: np.zeros(BATCH, bool) for m in widths}
    alone = [run(head, features, nobody | {m: present[m]}) for m in widths]
    together = run(head, features, present)
    assert np.allclose(together, sum(alone) / 3, rtol=1e-12, atol=1e-12) == (bottlenecks == 0)


def test_without_bottlenecks_no_parameter_is_empty() -> None:
    head = BottleneckFusion(WIDTHS, 8, num_bottlenecks=0)
    assert "bottlenecks" not in dict(head.named_parameters())
    assert all(p.numel() for p in head.parameters())


def test_bottlenecks_start_small() -> None:
    """From N(0, 0.02^2): 8192 draws put the standard deviation within 4% (five standard errors)."""
    start = BottleneckFusion({"image": 2}, 128, num_bottlenecks=64).bottlenecks
    assert start is not None
    assert start.std().item() == pytest.approx(0.02, rel=0.04)
    assert start.mean().item() == pytest.approx(0, abs=0.02 * 5 / 8192**0.5)


def test_dropout_acts_in_training_only() -> None:
    check_dropout(lambda widths, p: BottleneckFusion(widths, 8, dropout=p))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_bottlenecks": -1}, "num_bottlenecks"),
        ({"fusion_layer": -1}, "fusion_layer"),
        ({"fusion_layer": 1}, "fusion_layer"),
        ({"num_layers": 1}, "fusion_layer"),
        ({"num_bottlenecks": 0, "fusion_layer": 3}, "fusion_layer"),
    ],
)
def test_bottleneck_refuses(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"BottleneckFusion.{named}"):
        BottleneckFusion(WIDTHS, **({"output_dim": 8} | options))
