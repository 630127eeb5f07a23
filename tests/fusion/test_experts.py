"""A network on the concatenation, and the mixture of several, in float64 NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_distill.errors import ConfigError
from lightning_distill.fusion import ConcatMLPFusion, MixtureOfExpertsFusion
from tests.fusion.reference import (
    BATCH,
    COUNTS,
    HOLES,
    WIDTHS,
    Array,
    Mask,
    gelu,
    run,
    sample,
    softmax,
    values,
)
from tests.verification import FORMULA, compared

EXPERTS, HIDDEN, OUT = 3, 5, 6


def concatenated(features: dict[str, Array], present: dict[str, Mask]) -> Array:
    """[x_1; ...; x_M], with zeros for what is absent."""
    return np.concatenate([np.where(present[m][:, None], x, 0) for m, x in features.items()], axis=1)


def expert(w: dict[str, Array], e: int, v: Array) -> Array:
    """E_e(v) of one sample, from its own rows and columns of the stacked weights."""
    own = slice(e * HIDDEN, (e + 1) * HIDDEN)
    hidden = gelu(w["hidden.weight"][own] @ v + w["hidden.bias"][own])
    return np.asarray(w["output.weight"][:, own] @ hidden + w["bias"][e])


@COUNTS
@HOLES
def test_concat_mlp(count: int, holes: bool) -> None:
    widths, features, present = sample(count, holes)
    head = ConcatMLPFusion(widths, output_dim=OUT, hidden_dim=HIDDEN, dropout=0.5).eval()
    w, v = values(head), concatenated(features, present)
    hidden = gelu(v @ w["hidden.weight"].T + w["hidden.bias"])
    expected = hidden @ w["output.weight"].T + w["output.bias"]
    compared(type(head), run(head, features, present), expected, rtol=1e-10, atol=1e-12, by=FORMULA)


def test_dropout_is_of_the_hidden_layer_and_of_training_only() -> None:
    """Each hidden unit is either gone or doubled: one of 2^5 outputs, and not always the same."""
    widths, features, present = sample(2, holes=False)
    head = ConcatMLPFusion(widths, output_dim=OUT, hidden_dim=HIDDEN, dropout=0.5)
    w, v = values(head), concatenated(features, present)
    hidden = gelu(v @ w["hidden.weight"].T + w["hidden.bias"])
    kept = 2 * ((np.arange(2**HIDDEN)[:, None] >> np.arange(HIDDEN)) % 2)
    torch.manual_seed(0)
    found, chosen = run(head.train(), features, present), set()
    for i in range(BATCH):
        possible = (hidden[i] * kept) @ w["output.weight"].T + w["output.bias"]
        distances = np.abs(possible - found[i]).max(axis=1)
        assert distances.min() < 1e-10
        chosen.add(int(distances.argmin()))
    assert len(chosen) > 1


@COUNTS
@HOLES
def test_mixture_of_experts(count: int, holes: bool) -> None:
    """Shazeer et al. (1701.06538), equations 1 and 2; the gate also reads which modalities are there."""
    widths, features, present = sample(count, holes)
    head = MixtureOfExpertsFusion(widths, OUT, num_experts=EXPERTS, hidden_dim=HIDDEN)
    w, rows = values(head), []
    for i, v in enumerate(concatenated(features, present)):
        bits = np.array([present[m][i] for m in widths], float)
        gate = softmax(w["gate.weight"] @ np.concatenate([v, bits]))
        rows.append(sum((gate[e] * expert(w, e, v) for e in range(EXPERTS)), np.zeros(OUT)))
    compared(type(head), run(head, features, present), np.stack(rows), rtol=1e-10, atol=1e-12, by=FORMULA)


@HOLES
def test_one_expert_is_a_network_on_the_concatenation(holes: bool) -> None:
    widths, features, present = sample(3, holes)
    mixture = MixtureOfExpertsFusion(widths, OUT, num_experts=1, hidden_dim=HIDDEN)
    network = ConcatMLPFusion(widths, OUT, hidden_dim=HIDDEN)
    values(mixture)
    weights = {n: p for n, p in mixture.state_dict().items() if n not in {"gate.weight", "bias"}}
    network.load_state_dict(weights | {"output.bias": mixture.bias[0].detach()})
    np.testing.assert_allclose(
        run(mixture, features, present), run(network, features, present), rtol=1e-10, atol=1e-12
    )


def test_the_gate_can_choose_by_what_is_there() -> None:
    """A gate that reads but one presence bit: that expert where it is set, all alike where it is not."""
    widths, features, present = sample(3, holes=True)
    head = MixtureOfExpertsFusion(widths, OUT, num_experts=EXPERTS, hidden_dim=HIDDEN)
    w, chosen, modality = values(head), 2, 1
    with torch.no_grad():
        head.gate.weight.zero_()
        head.gate.weight[chosen, sum(widths.values()) + modality] = 200.0
    x, there = run(head, features, present), present[list(widths)[modality]]
    for i, v in enumerate(concatenated(features, present)):
        said = np.stack([expert(w, e, v) for e in range(EXPERTS)])
        np.testing.assert_allclose(
            x[i], said[chosen] if there[i] else said.mean(axis=0), rtol=1e-10, atol=1e-12
        )
    assert there.any()
    assert not there.all()


def test_an_absent_modality_is_not_one_that_is_zero() -> None:
    widths, features, present = sample(2, holes=False)
    head = MixtureOfExpertsFusion(widths, OUT, num_experts=EXPERTS, hidden_dim=HIDDEN)
    values(head)
    zero = features | {"text": np.zeros_like(features["text"])}
    absent = present | {"text": np.zeros(BATCH, bool)}
    assert not np.allclose(run(head, zero, present), run(head, zero, absent))


def test_each_expert_starts_as_wide_as_a_network_of_its_own() -> None:
    """Its output layer reads hidden_dim numbers, however many experts there are: |V| <= 1 / sqrt(64)."""
    head = MixtureOfExpertsFusion(WIDTHS, 16, num_experts=9, hidden_dim=64)
    largest = head.output.weight.abs().max().item()
    assert 0.95 / 8 < largest <= 1 / 8


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ConcatMLPFusion, {"hidden_dim": 0}),
        (ConcatMLPFusion, {"dropout": 1.0}),
        (ConcatMLPFusion, {"dropout": -0.1}),
        (ConcatMLPFusion, {"dropout": math.nan}),
        (MixtureOfExpertsFusion, {"num_experts": 0}),
        (MixtureOfExpertsFusion, {"hidden_dim": 0}),
    ],
)
def test_bad_settings_are_refused(cls: Any, options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ConfigError, match=rf"{cls.__name__}\.{name}: found {value}"):
        cls(WIDTHS, **options)
