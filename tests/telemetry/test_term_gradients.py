"""How terms pull at the fused feature, against derivatives written by hand in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_distill.telemetry.term_gradients import term_gradients


def feature(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(5, 8, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_shares_and_cosines_are_those_of_the_derivatives() -> None:
    x = feature()
    other = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    terms = {
        "task": 0.5 * x.square().sum(),
        "hint": 3.0 * (x - other).square().mean(),
        "kd": -0.2 * (x * other).sum(),
    }
    found = term_gradients(terms, x)
    z, o = x.detach().numpy(), other.numpy()
    by_hand = {"task": z, "hint": 6 * (z - o) / z.size, "kd": -0.2 * o}
    norms = {name: np.sqrt((g**2).sum()) for name, g in by_hand.items()}
    expected = {f"gradient_share/{name}": n / sum(norms.values()) for name, n in norms.items()}
    expected |= {f"gradient_cosine/{name}": cosine(by_hand[name], z) for name in ("hint", "kd")}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-12)
    assert all(value.shape == () and not value.requires_grad for value in found.values())


def test_a_term_against_the_task_is_a_conflict() -> None:
    x = feature()
    found = term_gradients(
        {"task": x.sum(), "with": 2 * x.sum(), "against": -x.sum(), "beside": x[:, 0].sum()}, x
    )
    assert found["gradient_cosine/with"].item() == pytest.approx(1)
    assert found["gradient_cosine/against"].item() == pytest.approx(-1)
    assert found["gradient_cosine/beside"].item() == pytest.approx(8**-0.5)


def test_a_term_that_does_not_reach_the_feature() -> None:
    x, weight = feature(), nn.Parameter(torch.ones(3))
    terms = {"task": x.sum(), "elsewhere": weight.sum(), "constant": torch.tensor(2.0)}
    found = term_gradients(terms, x)
    assert found.keys() == {f"gradient_share/{name}" for name in terms}
    assert {name: value.item() for name, value in found.items()} == {
        "gradient_share/task": 1.0,
        "gradient_share/elsewhere": 0.0,
        "gradient_share/constant": 0.0,
    }


def test_without_a_task_there_is_no_conflict() -> None:
    x = feature()
    assert term_gradients({"hint": x.sum(), "kd": x.mean()}, x).keys() == {
        "gradient_share/hint",
        "gradient_share/kd",
    }


def test_a_frozen_feature_is_reached_by_nothing() -> None:
    weight = nn.Parameter(torch.ones(8, dtype=torch.float64))
    x = feature().detach()
    assert term_gradients({"task": (x * weight).sum()}, x)["gradient_share/task"].item() == 0


def test_zero_gradients_give_numbers() -> None:
    x = feature()
    found = term_gradients({"task": 0 * x.sum(), "hint": 0 * x.square().sum()}, x)
    assert [value.item() for value in found.values()] == [0.0, 0.0, 0.0]


def test_neither_parameters_nor_the_graph_are_touched() -> None:
    torch.manual_seed(0)
    encoder, head = nn.Linear(4, 8), nn.Linear(8, 3)
    x = encoder(torch.randn(5, 4))
    loss = head(x).square().mean()
    term_gradients({"task": loss, "hint": x.square().mean()}, x)
    assert all(p.grad is None for p in [*encoder.parameters(), *head.parameters()])
    loss.backward()
    assert encoder.weight.grad is not None


def test_scale_lifts_float16_gradients_over_underflow() -> None:
    def terms(x: Tensor) -> dict[str, Tensor]:
        return {"task": (x * 1e-6).float().mean(), "hint": -(x * 3e-6).float().mean()}

    x = torch.ones(64, 64, dtype=torch.float16, requires_grad=True)
    assert term_gradients(terms(x), x)["gradient_share/task"].item() == 0
    found = term_gradients(terms(x), x, scale=torch.tensor(65536.0))
    assert found["gradient_share/task"].item() == pytest.approx(0.25, rel=0.02)
    assert found["gradient_cosine/hint"].item() == pytest.approx(-1, abs=1e-3)
    assert found["gradient_share/hint"].dtype == torch.float32


def test_under_autocast() -> None:
    torch.manual_seed(0)
    head, x = nn.Linear(8, 3), feature(torch.float32)
    target = torch.tensor([0, 1, 2, 0, 1])
    full = term_gradients(
        {"task": nn.functional.cross_entropy(head(x), target), "hint": x.square().mean()}, x
    )
    with torch.autocast("cpu", torch.bfloat16):
        terms = {"task": nn.functional.cross_entropy(head(x), target), "hint": x.square().mean()}
        half = term_gradients(terms, x)
    for name, value in full.items():
        assert half[name].item() == pytest.approx(value.item(), abs=0.02)


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=5),
    scale=st.floats(0.01, 1000),
)
def test_shares_add_up_to_one_and_scale_changes_nothing(weights: list[float], scale: float) -> None:
    x = feature()

    def terms() -> dict[str, Tensor]:
        return {f"{i}": w * (x * (i + 1)).sin().sum() for i, w in enumerate(weights)}

    def shares(found: dict[str, Tensor]) -> list[Any]:
        return [value.item() for name, value in found.items() if name.startswith("gradient_share")]

    plain = shares(term_gradients(terms(), x, task="0"))
    assert sum(plain) == pytest.approx(1)
    assert shares(term_gradients(terms(), x, scale=scale, task="0")) == pytest.approx(plain)
