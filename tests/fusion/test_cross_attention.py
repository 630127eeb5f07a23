"""The multimodal transformer (MulT), against its formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import CrossAttentionFusion
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
    attention,
    check_dropout,
    double_tokens,
    drawn,
    layer_norm,
    linear,
    normalized,
    rest,
    self_attention,
)
from tests.verification import compared

Options = dict[str, int]


def positions(length: int, width: int) -> Array:
    """Vaswani et al. (1706.03762), section 3.5."""
    table = np.zeros((length, width))
    for i in range(length):
        for j in range(0, width, 2):
            angle = i / 10000 ** (j / width)
            table[i, j] = math.sin(angle)
            if j + 1 < width:
                table[i, j + 1] = math.cos(angle)
    return table


def crossed(
    w: dict[str, Array], z: dict[str, Array], alpha: str, beta: str, names: list[str], o: Options
) -> Array:
    """Tsai et al. (1906.00295), section 3.2: beta's low-level tokens are the source of every layer."""
    stream = z[alpha]
    if beta not in z:
        return stream
    slot = [m for m in names if m != beta].index(alpha)
    source = linear(w, f"keys_values.{beta}", normalized(z[beta]))
    for n in range(o["num_layers"]):
        at = 2 * (slot * o["num_layers"] + n) * o["width"]
        k, v = np.split(source[:, at : at + 2 * o["width"]], 2, axis=1)
        name = f"targets.{alpha}.crossmodal.{beta}.layers.{n}"
        q = linear(w, f"{name}.project", layer_norm(w, f"{name}.norm", stream))
        stream = rest(w, name, stream, attention(q, k, v, o["num_heads"]))
    return stream


def mult(w: dict[str, Array], features: dict[str, Sequences], present: dict[str, Mask], o: Options) -> Array:
    """Section 3: project, cross, self-attention over the concatenation, pool, join; one row at a time."""
    names, rows = list(features), []
    total = max(len(names) - 1, 1) * o["width"]
    for i in range(BATCH):
        z = {}
        for m in names:
            x, mask = features[m]
            if present[m][i]:
                embedded = linear(w, f"project.{m}", x[i]) + positions(x.shape[1], o["width"])
                z[m] = embedded[mask[i]]
        pooled = []
        for alpha in names:
            if alpha not in z:
                pooled.append(np.zeros(total))
                continue
            streams = [crossed(w, z, alpha, beta, names, o) for beta in names if beta != alpha]
            memory = np.concatenate(streams, axis=1) if streams else z[alpha]
            for n in range(o["memory_layers"]):
                memory = self_attention(w, f"targets.{alpha}.memory.{n}", memory, o["num_heads"])
            pooled.append(layer_norm(w, f"targets.{alpha}.norm", memory).mean(axis=0))
        rows.append(linear(w, "output", np.concatenate(pooled)))
    return np.stack(rows)


@COUNTS
@HOLES
@PADDED
@pytest.mark.parametrize("depths", [(1, 1), (2, 2)])
@pytest.mark.parametrize("shape", [(8, 4), (5, 1)])
def test_cross_attention(
    count: int, holes: bool, padded: bool, depths: tuple[int, int], shape: tuple[int, int]
) -> None:
    widths, features, present = drawn(count, holes, padded)
    options = {"width": shape[0], "num_heads": shape[1], "num_layers": depths[0], "memory_layers": depths[1]}
    head = CrossAttentionFusion(widths, output_dim=7, **options)
    expected = mult(values(head), features, present, options)
    compared(type(head), run(head, features, present), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3])
def test_with_one_token_each_what_is_asked_does_not_matter(count: int) -> None:
    """A softmax over one key is 1: another map to the crossmodal queries gives the same x."""
    widths, features, present = token_sample(count, holes=False)
    single = {m: (x[:, :1], mask[:, :1]) for m, (x, mask) in features.items()}
    head = CrossAttentionFusion(widths, width=8)
    values(head)
    queries = [p for n, p in head.named_parameters() if ".crossmodal." in n and ".project." in n]
    assert len(queries) == count * (count - 1) * 2 * 2
    before, before_many = run(head, single, present), run(head, features, present)
    for parameter in queries:
        parameter.data.neg_()
    np.testing.assert_allclose(run(head, single, present), before, rtol=1e-12)
    assert not np.allclose(run(head, features, present), before_many)


def test_a_modality_that_nobody_has_trains_nothing() -> None:
    """Neither what reads it nor what it reads moves, and it does not reach x through a bias."""
    widths, features, present = token_sample(3, holes=False)
    head = CrossAttentionFusion(widths, width=8).double()
    here = {m: torch.from_numpy(p) & (m != "text") for m, p in present.items()}
    head(double_tokens(features), here).square().sum().backward()
    for name, parameter in head.named_parameters():
        touched = "text" in name.split(".")
        assert parameter.grad is not None
        assert bool(parameter.grad.abs().max() > 0) != touched, name


def test_order_in_time_matters() -> None:
    widths, features, present = drawn(2, holes=False, padded=False)
    head = CrossAttentionFusion(widths, width=8)
    values(head)
    x, mask = features["text"]
    turned = features | {"text": (x[:, ::-1].copy(), mask)}
    assert not np.allclose(run(head, turned, present), run(head, features, present))


def test_there_is_no_mask_over_time() -> None:
    """The first token of one modality sees the last of another: a causal mask would hide it."""
    widths, features, present = drawn(2, holes=False, padded=False)
    image, text = features["image"], features["text"]
    first = image[0], np.arange(image[0].shape[1]) == np.zeros((BATCH, 1))
    head = CrossAttentionFusion(widths, width=8)
    values(head)
    only_image = head.output.weight.data
    only_image[:, only_image.shape[1] // 2 :] = 0
    changed = text[0].copy()
    changed[:, -1] += 1
    before = run(head, {"image": first, "text": text}, present)
    after = run(head, {"image": first, "text": (changed, text[1])}, present)
    assert (np.abs(after - before).max(axis=1) > 1e-6).all()


def test_dropout_acts_in_training_only() -> None:
    check_dropout(lambda widths, p: CrossAttentionFusion(widths, 8, width=8, dropout=p))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"width": 0}, "num_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"memory_layers": 0}, "memory_layers"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_cross_attention_refuses(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"CrossAttentionFusion.{named}"):
        CrossAttentionFusion(WIDTHS, **options)
