"""What the references of the heads over tokens share: a transformer layer, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.fusion import FusionHead
from lightning_distill.structures import Tokens
from tests.fusion.reference import WIDTHS, Array, Mask, Sequences, gelu, softmax, token_sample

PADDED = pytest.mark.parametrize("padded", [True, False])


def drawn(
    count: int, holes: bool, padded: bool
) -> tuple[dict[str, int], dict[str, Sequences], dict[str, Mask]]:
    """`token_sample`, or the same without padding."""
    widths, features, present = token_sample(count, holes)
    if not padded:
        features = {m: (x, np.ones_like(mask)) for m, (x, mask) in features.items()}
    return widths, features, present


def linear(w: dict[str, Array], name: str, x: Array) -> Array:
    """Of one token or several; the bias where there is one."""
    return np.asarray(x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0))


def normalized(x: Array) -> Array:
    """Mean 0 and variance 1 of each token."""
    return np.stack([(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in x])


def layer_norm(w: dict[str, Array], name: str, x: Array) -> Array:
    """With its scale and shift."""
    return np.asarray(normalized(x) * w[f"{name}.weight"] + w[f"{name}.bias"])


def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
    """Vaswani et al. (1706.03762), section 3.2: softmax(q k / sqrt(d)) v for each head and query."""
    out, d = np.zeros_like(q), q.shape[1] // heads
    for h in range(heads):
        at = slice(h * d, (h + 1) * d)
        for i in range(len(q)):
            scores = np.array([q[i, at] @ k[j, at] / math.sqrt(d) for j in range(len(k))])
            out[i, at] = sum(a * v[j, at] for j, a in enumerate(softmax(scores)))
    return out


def rest(w: dict[str, Array], name: str, x: Array, attended: Array) -> Array:
    """Section 3.3 and the two sums, with normalised inputs."""
    y = x + linear(w, f"{name}.output", attended)
    hidden = linear(w, f"{name}.expand", layer_norm(w, f"{name}.hidden_norm", y))
    return np.asarray(y + linear(w, f"{name}.reduce", gelu(hidden)))


def self_attention(w: dict[str, Array], name: str, x: Array, heads: int) -> Array:
    """A layer over all tokens of x, "tokens width"."""
    q, k, v = np.split(linear(w, f"{name}.project", layer_norm(w, f"{name}.norm", x)), 3, axis=1)
    return rest(w, name, x, attention(q, k, v, heads))


def double_tokens(features: dict[str, Sequences]) -> dict[str, Tokens]:
    """The same as tensors."""
    return {m: Tokens(torch.from_numpy(x), torch.from_numpy(mask)) for m, (x, mask) in features.items()}


def check_dropout(make: Callable[[dict[str, int], float], FusionHead]) -> None:
    """It changes x in training and only there."""
    features = {m: Tokens(torch.randn(3, 4, d), torch.ones(3, 4).bool()) for m, d in WIDTHS.items()}
    present = {m: torch.ones(3).bool() for m in WIDTHS}
    head, without = make(WIDTHS, 0.5), make(WIDTHS, 0.0)
    without.load_state_dict(head.state_dict())
    expected: Any = without(features, present)
    assert not torch.allclose(head(features, present), expected)
    assert torch.equal(head.eval()(features, present), expected)
