"""MMD and CORAL in lower precision, where their formulas end, and defects of other libraries."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_distill.losses import CORAL, MaximumMeanDiscrepancy, coral, maximum_mean_discrepancy
from tests.losses.alignment_checks import (
    FUNCTIONS,
    Array,
    draw,
    gradients,
    mmd,
    mmd_reference,
    tensors,
    width_of,
)
from tests.verification import guards

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EACH = pytest.mark.parametrize("name", FUNCTIONS)
CASES: dict[str, tuple[Array, Array]] = {
    "all rows alike": (np.full((7, 3), 0.1), np.full((4, 3), 0.1)),
    "two points": (np.full((7, 3), 0.1), np.full((4, 3), 0.3)),
    "zeros": (np.zeros((3, 2)), np.zeros((2, 2))),
    "far from 0": (draw(6, 3, shift=1e3), draw(4, 3, seed=1, shift=1e3)),
    "one row far off": (np.concatenate([draw(5, 3), np.full((1, 3), 1e3)]), draw(4, 3, seed=1)),
    "small": (draw(6, 3, scale=1e-3), draw(4, 3, seed=1, scale=1e-3)),
    "one row": (draw(1, 3), draw(1, 3, seed=1)),
    "one and many": (draw(1, 3), draw(5, 3, seed=1)),
    "wide": (draw(2, 50), draw(3, 50, seed=1)),
}
TOO_LARGE = ("coral", torch.float16, "one row far off")
"""The value itself, 1e9, is more than half precision holds."""


@pytest.mark.parametrize(
    ("name", "dtype", "case"), [c for c in product(FUNCTIONS, DTYPES, CASES) if c != TOO_LARGE]
)
def test_stays_finite_and_close_to_double_precision(name: str, dtype: torch.dtype, case: str) -> None:
    f, sides = FUNCTIONS[name], tensors(*CASES[case], dtype=dtype, grad=True)
    value, grads = gradients(f, *sides)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    assert all(g.isfinite().all() for g in grads)
    exact, exact_grads = gradients(f, *(x.detach().double().requires_grad_() for x in sides))
    rounding = 1e-4 if dtype == torch.float32 else 1e-2
    assert value.item() == pytest.approx(exact.item(), rel=rounding, abs=rounding)
    largest = max(g.abs().max().item() for g in exact_grads)
    for found, wanted in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=rounding, atol=rounding * largest + 1e-6)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("shape", [(7, 3), (4, 40)])
def test_twice_the_same_rows(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """0 exactly, and a gradient of 0; but for the unbiased MMD, which then counts pairs of one row across."""
    x = draw(*shape)
    value, grads = gradients(FUNCTIONS[name], *tensors(x, x.copy(), dtype=dtype, grad=True))
    if name == "unbiased":
        rounded = tensors(x, dtype=dtype)[0].double().numpy()
        expected = mmd_reference(rounded, rounded, True, width_of(rounded, rounded))
        assert value.item() == pytest.approx(expected, rel=1e-2)
        assert value < 0
    else:
        assert value == 0
        assert all(g.abs().max() < 1e-6 for g in grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_all_alike_are_at_0(dtype: torch.dtype) -> None:
    """Their width is 0, and their distance in units of it 0 / 0."""
    row = draw(1, 300, shift=5.0)
    x, y = tensors(np.repeat(row, 37, axis=0), np.repeat(row, 21, axis=0), dtype=dtype, grad=True)
    for unbiased in (False, True):
        value, grads = gradients(lambda a, b, u=unbiased: maximum_mean_discrepancy(a, b, unbiased=u), x, y)
        assert value == 0
        assert all((g == 0).all() for g in grads)


@EACH
@pytest.mark.parametrize("rows", [(0, 3), (3, 0), (0, 0)])
def test_a_side_without_rows_gives_0(name: str, rows: tuple[int, int]) -> None:
    x, y = (torch.randn(n, 4, requires_grad=True) for n in rows)
    value, grads = gradients(FUNCTIONS[name], x, y)
    assert value == 0
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize("rows", [(1, 5), (5, 1), (1, 1)])
def test_unbiased_mmd_of_a_single_row_gives_0(rows: tuple[int, int]) -> None:
    """There is no pair of different rows to take the mean of."""
    x, y = (torch.randn(n, 4, requires_grad=True) for n in rows)
    value, grads = gradients(FUNCTIONS["unbiased"], x, y)
    assert value == 0
    assert all((g == 0).all() for g in grads)


def test_covariance_of_a_single_row_is_0() -> None:
    x, y = draw(1, 3), draw(6, 3, seed=1)
    expected = (np.cov(y, rowvar=False) ** 2).sum() / 36
    assert coral(*tensors(x, y)).item() == pytest.approx(expected, rel=1e-12)


@EACH
def test_mixed_precision_does_not_round_the_products(name: str) -> None:
    x, y = tensors(draw(6, 8, shift=5.0), draw(5, 8, seed=1, shift=5.0), dtype=torch.float32)
    expected = FUNCTIONS[name](x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FUNCTIONS[name](x, y), expected)


@EACH
def test_maps_are_flattened(name: str) -> None:
    x, y = torch.randn(4, 2, 3, 3), torch.randn(5, 2, 3, 3)
    assert torch.equal(FUNCTIONS[name](x, y), FUNCTIONS[name](x.flatten(1), y.flatten(1)))


def test_covariances_of_many_features_are_never_made() -> None:
    """4 rows of 3000 features: 144 million products for two matrices "d d", 0.3 million without them."""
    x, y = torch.randn(4, 3000), torch.randn(4, 3000)
    with FlopCounterMode(display=False) as counter:
        coral(x, y)
    assert 0 < counter.get_total_flops() < 1e6


# -- defects of other libraries ----------------------------------------------------------------------------


@guards(CORAL, "four times the paper's value")
def test_defect_11_coral_is_the_papers_and_not_four_times_it() -> None:
    """A mean over the d^2 entries, where the paper divides by 4 d^2."""
    x, y = draw(9, 4), draw(9, 4, seed=1, scale=2.0)
    entries = (np.cov(x, rowvar=False) - np.cov(y, rowvar=False)) ** 2
    assert coral(*tensors(x, y)).item() == pytest.approx(entries.mean() / 4, rel=1e-12)


@guards(CORAL, "a term of the means, which its description does not have")
def test_defect_11_coral_has_no_term_of_the_means() -> None:
    x = draw(9, 4)
    assert coral(*tensors(x, x + 100.0)).item() == pytest.approx(0, abs=1e-20)


@guards(MaximumMeanDiscrepancy, "batches of both domains must be equally large")
def test_defect_11_mmd_takes_batches_of_different_sizes() -> None:
    x, y = draw(3, 4), draw(8, 4, seed=1)
    for unbiased in (False, True):
        expected = mmd_reference(x, y, unbiased, width_of(x, y))
        assert mmd(x, y, unbiased) == pytest.approx(expected, abs=1e-12)


@guards(MaximumMeanDiscrepancy, "a negative distance of identical tensors")
def test_defect_11_mmd_of_identical_tensors_is_0_and_not_negative() -> None:
    x = draw(8, 4)
    assert mmd(x, x) == 0
