"""Joint self-attention over all tokens, against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import TokenAttentionFusion
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


def one_stream(
    w: dict[str, Array], features: dict[str, Sequences], present: dict[str, Mask], heads: int, layers: int
) -> Array:
    """Li et al. (1908.03557), section 3.2: one sequence of every token a row has, the class token first."""
    rows = []
    for i in range(BATCH):
        tokens = [w["class_token"]]
        for m, (x, mask) in features.items():
            if present[m][i]:
                tokens += [linear(w, f"project.{m}", x[i, t]) for t in range(x.shape[1]) if mask[i, t]]
        t = np.stack(tokens)
        for n in range(layers):
            t = self_attention(w, f"layers.{n}", t, heads)
        rows.append(layer_norm(w, "norm", t)[0])
    return np.stack(rows)


@COUNTS
@HOLES
@PADDED
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("heads", [1, 4])
def test_token_attention(count: int, holes: bool, padded: bool, layers: int, heads: int) -> None:
    widths, features, present = drawn(count, holes, padded)
    head = TokenAttentionFusion(widths, output_dim=8, num_heads=heads, num_layers=layers)
    expected = one_stream(values(head), features, present, heads, layers)
    compared(type(head), run(head, features, present), expected, rtol=1e-9, atol=1e-12)


def test_tokens_are_a_set() -> None:
    """It adds no positions: those are the encoders'."""
    widths, features, present = token_sample(3, holes=False)
    head = TokenAttentionFusion(widths, output_dim=8, num_layers=2)
    values(head)
    turned = {m: (x[:, ::-1].copy(), mask[:, ::-1].copy()) for m, (x, mask) in features.items()}
    np.testing.assert_allclose(run(head, turned, present), run(head, features, present), rtol=1e-9)


def test_modalities_are_told_apart() -> None:
    """By their embedding alone: the same tokens and the same map, in another modality."""
    head = TokenAttentionFusion({"a": 3, "b": 3}, output_dim=8)
    values(head)
    head.project["b"].weight.data.copy_(head.project["a"].weight)  # type: ignore[operator, union-attr, arg-type]
    _, features, _ = token_sample(2, holes=False)
    x = features["image"][0][:, :, :3], features["image"][1]
    here = {m: np.ones(BATCH, bool) for m in "ab"}
    only = [run(head, {"a": x, "b": x}, here | {m: np.zeros(BATCH, bool)}) for m in "ab"]
    assert not np.allclose(*only)
    head.project["b"].bias.data.copy_(head.project["a"].bias)  # type: ignore[operator, union-attr, arg-type]
    only = [run(head, {"a": x, "b": x}, here | {m: np.zeros(BATCH, bool)}) for m in "ab"]
    np.testing.assert_allclose(*only, rtol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    check_dropout(lambda widths, p: TokenAttentionFusion(widths, 8, num_layers=2, dropout=p))


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 3},
        {"num_heads": 0},
        {"num_layers": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": float("nan")},
    ],
)
def test_token_attention_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"TokenAttentionFusion.{next(iter(options))}"):
        TokenAttentionFusion(WIDTHS, **({"output_dim": 8} | options))
