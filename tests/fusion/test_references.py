"""Each head against its formula, written in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import AttentionFusion, ConcatFusion, GatedFusion
from tests.fusion.reference import (
    BATCH,
    COUNTS,
    HOLES,
    WIDTHS,
    Array,
    Mask,
    run,
    sample,
    sigmoid,
    softmax,
    values,
)
from tests.verification import FORMULA, compared


def gmu(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], out: int) -> Array:
    """Arevalo et al. (1702.01992), section 3.1: two modalities share one gate, more have one each.

    One row at a time; an absent modality is a zero input and adds nothing.
    """
    names, rows = list(features), []
    for i in range(BATCH):
        x = {m: features[m][i] if present[m][i] else np.zeros_like(features[m][i]) for m in names}
        h = {m: np.tanh(w[f"hidden.{m}.weight"] @ x[m]) for m in names}
        z = sigmoid(w["gate.weight"] @ np.concatenate([x[m] for m in names]))
        here = [m for m in names if present[m][i]]
        if len(names) == 2:
            first, second = names
            rows.append(z * h[first] + (1 - z) * h[second] if len(here) == 2 else h[here[0]])
        else:
            rows.append(
                sum(
                    (z[k * out : (k + 1) * out] * h[m] for k, m in enumerate(names) if m in here),
                    np.zeros(out),
                )
            )
    return np.stack(rows)


def attention(w: dict[str, Array], features: dict[str, Array], present: dict[str, Mask], heads: int) -> Array:
    """Vaswani et al. (1706.03762), section 3.2, over the tokens that a sample has."""
    names, rows = list(features), []
    for i in range(BATCH):
        tokens = {
            m: w[f"project.{m}.weight"] @ features[m][i] + w[f"project.{m}.bias"] + w["modality_embedding"][k]
            for k, m in enumerate(names)
            if present[m][i]
        }
        t = np.stack(list(tokens.values()))
        width = t.shape[1]
        q, k, v = np.split(t @ w["query_key_value.weight"].T + w["query_key_value.bias"], 3, axis=1)
        parts, d = [], width // heads
        for n in range(heads):
            at = slice(n * d, (n + 1) * d)
            scores = q[:, at] @ k[:, at].T / np.sqrt(d)
            parts.append(np.stack([softmax(row) for row in scores]) @ v[:, at])
        attended = np.concatenate(parts, axis=1) @ w["output.weight"].T + w["output.bias"]
        u = t + attended
        mean, variance = u.mean(axis=1, keepdims=True), u.var(axis=1, keepdims=True)
        normed = (u - mean) / np.sqrt(variance + 1e-5) * w["norm.weight"] + w["norm.bias"]
        rows.append(normed.mean(axis=0))
    return np.stack(rows)


@COUNTS
@HOLES
def test_concat(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    expected = np.concatenate([np.where(present[m][:, None], features[m], 0) for m in widths], axis=1)
    compared(ConcatFusion, run(ConcatFusion(widths), features, present), expected, by=FORMULA)


@COUNTS
@HOLES
def test_gated(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = GatedFusion(widths, output_dim=7)
    expected = gmu(values(head), features, present, 7)
    compared(type(head), run(head, features, present), expected, rtol=1e-12)
    assert not any("bias" in name for name, _ in head.named_parameters())


@COUNTS
@HOLES
@pytest.mark.parametrize("heads", [1, 4])
def test_attention(count: int, holes: bool, heads: int) -> None:
    widths, features, present = sample(count, holes)
    head = AttentionFusion(widths, output_dim=8, num_heads=heads)
    expected = attention(values(head), features, present, heads)
    compared(type(head), run(head, features, present), expected, rtol=1e-9)
    with torch.no_grad():  # without gradients PyTorch may take another way through its attention
        compared(AttentionFusion, run(head.eval(), features, present), expected, rtol=1e-9)


@pytest.mark.parametrize("options", [{"num_heads": 3}, {"num_heads": 0}, {"output_dim": 0, "num_heads": 1}])
def test_attention_refuses_what_does_not_divide(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="AttentionFusion"):
        AttentionFusion(WIDTHS, **({"output_dim": 8} | options))
