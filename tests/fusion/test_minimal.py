"""The plain heads that ours are timed against do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.structures import Feature, Tokens
from tests.shelves import concrete

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WIDTHS = {"image": 7, "text": 5, "audio": 6}
NEAR = {"rtol": 1e-5, "atol": 1e-6}
"""The plain cross-attention keeps its sines in float32."""
NAMES = sorted(cls.__name__ for cls in concrete("fusion"))


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the scripts set them; they end with the test


@pytest.mark.parametrize("name", NAMES)
def test_the_same_output_and_gradients(name: str) -> None:
    """In float64, with weights moved away from where they start, so that no bias or gate is left out."""
    from fusion_pairs import PAIRS
    from fusion_synthetic import HEADS

    (pair,) = (p for p in PAIRS if p.name == name)
    torch.manual_seed(0)
    head = HEADS[name](WIDTHS)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    head, plain = head.double(), pair.plain(head).double()
    x, y = draw(head), draw(head)
    there = {m: torch.ones(4, dtype=torch.bool) for m in WIDTHS}
    given: dict[str, Feature] = {}
    for m, v in zip(head.modalities, x, strict=True):
        given[m] = Tokens(v, torch.ones(v.shape[:2], dtype=torch.bool)) if head.reads_tokens else v
    ours, other = head(given, there), plain(y)
    assert ours.std(dim=0).mean() > 0.01
    torch.testing.assert_close(other, ours, **NEAR)
    weights = torch.randn_like(ours)
    ours.backward(weights)
    other.backward(weights)
    for v, u in zip(x, y, strict=True):
        torch.testing.assert_close(u.grad, v.grad, **NEAR)


def draw(head: Any) -> list[Tensor]:
    torch.manual_seed(1)
    between = [(i + 2,) if head.reads_tokens else () for i in range(len(WIDTHS))]
    shapes = [(4, *b, width) for b, width in zip(between, head.feature_dims.values(), strict=True)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_every_head_has_one() -> None:
    from fusion_pairs import PAIRS

    assert sorted(p.name for p in PAIRS) == NAMES
