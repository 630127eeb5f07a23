"""The terms of MMD and CORAL: which rows they read, their settings, and that they can be learned from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.losses import CORAL, MaximumMeanDiscrepancy, coral, maximum_mean_discrepancy
from lightning_distill.structures import Batch, ModelOutput, Outputs
from tests.builders import make_batch

ROWS = 8
TARGET = torch.tensor([False, True, True, False, False, True, False, True])
EACH = pytest.mark.parametrize(
    ("term", "function"),
    [
        (MaximumMeanDiscrepancy("features.image"), maximum_mean_discrepancy),
        (
            MaximumMeanDiscrepancy("features.image", (0.5, 3.0), unbiased=True),
            lambda x, y: maximum_mean_discrepancy(x, y, (0.5, 3.0), unbiased=True),
        ),
        (CORAL("features.image"), coral),
    ],
)


def batch_with(target: Tensor, absent: tuple[int, ...] = ()) -> Batch:
    batch: Any = make_batch(("image", "text"), len(target), {"image": absent})
    return {**batch, "in_target_domain": target}  # type: ignore[no-any-return]


def output(x: Tensor) -> ModelOutput:
    return ModelOutput(torch.zeros(len(x), 4), features={"image": x})


@EACH
def test_compares_source_rows_with_target_rows(term: Any, function: Any) -> None:
    x = torch.randn(ROWS, 5)
    expected = function(x[~TARGET], x[TARGET])
    assert torch.equal(term(output(x), None, batch_with(TARGET)), expected)
    assert not term.needs_teacher
    assert term.suits == frozenset(Outputs)


@EACH
def test_rows_without_the_modality_take_no_part(term: Any, function: Any) -> None:
    x = torch.randn(ROWS, 5, requires_grad=True)
    value = term(output(x), None, batch_with(TARGET, absent=(3, 5)))
    assert torch.equal(value, function(x[[0, 4, 6]], x[[1, 2, 7]]))
    value.backward()
    assert x.grad is not None
    assert (x.grad[[3, 5]] == 0).all()
    assert (x.grad[[0, 1, 2, 4, 6, 7]].abs().amax(dim=1) > 0).all()


@EACH
def test_rows_that_lost_the_modality_to_dropout_take_no_part(term: Any, function: Any) -> None:
    x = torch.randn(ROWS, 5)
    there = torch.ones(ROWS, dtype=torch.bool).index_fill_(0, torch.tensor([3, 5]), False)
    answer = ModelOutput(torch.zeros(ROWS, 4), features={"image": x}, present={"image": there})
    assert torch.equal(term(answer, None, batch_with(TARGET)), function(x[[0, 4, 6]], x[[1, 2, 7]]))


@EACH
@pytest.mark.parametrize("side", [True, False])
def test_rows_of_one_side_only_give_0(term: Any, function: Any, side: bool) -> None:
    x = torch.randn(ROWS, 5, requires_grad=True)
    value = term(output(x), None, batch_with(torch.full((ROWS,), side)))
    value.backward()
    assert value == 0
    assert x.grad is not None
    assert (x.grad == 0).all()


@EACH
def test_one_side_only_is_0_where_a_sum_is_too_large_for_half_precision(term: Any, function: Any) -> None:
    x = torch.full((64, 512), 4.0, dtype=torch.float16)
    assert x.sum().isinf()
    assert term(output(x), None, batch_with(torch.zeros(64, dtype=torch.bool))) == 0
    assert function(x, x[:0]) == 0


@EACH
def test_a_batch_of_one_kind_of_domain_is_refused(term: Any, function: Any) -> None:
    with pytest.raises(ConfigError, match="CrossDomainDataModule"):
        term(output(torch.randn(4, 5)), None, make_batch(("image",), 4))


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)])
def test_bad_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"MaximumMeanDiscrepancy\.scales"):
        MaximumMeanDiscrepancy(scales=scales)


def clouds(rows: int, seed: int) -> Tensor:
    """As many of the source as of the target, which is moved along a direction of three features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * rows, 6, generator=generator)
    x[rows:] += torch.tensor([2.0, -1.0, 0.0, 3.0, 0.0, 0.0])
    return x


@pytest.mark.parametrize("unbiased", [False, True])
def test_an_encoder_that_learns_from_mmd_alone_makes_two_clouds_one(unbiased: bool) -> None:
    """On rows it has not seen, too: it finds the two directions in which nothing has moved."""
    torch.manual_seed(0)
    encoder, term = nn.Linear(6, 2), MaximumMeanDiscrepancy("features.image", unbiased=unbiased)
    optimizer = torch.optim.Adam(encoder.parameters(), 0.05)
    rows = 64
    batch, new = batch_with(torch.arange(2 * rows) >= rows), clouds(500, seed=1000)

    def distance() -> float:
        with torch.no_grad():
            h = encoder(new)
            return maximum_mean_discrepancy(h[:500], h[500:], unbiased=True).item()

    before = distance()
    for step in range(150):
        optimizer.zero_grad()
        term(output(encoder(clouds(rows, seed=step))), None, batch).backward()
        optimizer.step()
    assert before > 0.1
    assert abs(distance()) < 0.01
