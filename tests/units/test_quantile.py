"""Quantile of absolute values, its logarithm smoothed; the sample it is taken from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_distill.errors import ConfigError
from lightning_distill.units import Quantile
from lightning_distill.units.quantile import SAMPLE, sample


def reference(steps: list[list[np.ndarray]], share: float, decay: float) -> list[float]:
    found, average, weight = [], 0.0, 0.0
    for arrays in steps:
        size = np.abs(np.concatenate([a.ravel() for a in arrays]).astype(np.float64))
        average = decay * average + (1 - decay) * math.log(np.quantile(size[size > 0], share))
        weight = decay * weight + 1 - decay
        found.append(math.exp(average / weight))
    return found


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_equals_the_formula(dtype: type, decay: float, share: float) -> None:
    rng = np.random.default_rng(0)
    steps = [[(i + 1) * rng.normal(size=s).astype(dtype) for s in [(40, 9), (5,), ()]] for i in range(8)]
    unit = Quantile(share, decay)
    ours = [unit([torch.from_numpy(np.asarray(a)) for a in arrays]).item() for arrays in steps]
    np.testing.assert_allclose(ours, reference(steps, share, decay), rtol=1e-5)


def test_zeros_do_not_count() -> None:
    x = torch.randn(1000)
    sparse = torch.zeros(20_000)
    sparse[::20] = x
    assert Quantile(0.3)([sparse]).item() == pytest.approx(Quantile(0.3)([x]).item())


def test_one_outlying_step_moves_little() -> None:
    unit = Quantile(0.9, decay=0.99)
    x = torch.randn(500)
    before = [unit([x]).item() for _ in range(200)][-1]
    assert unit([1e6 * x]).item() == pytest.approx(before * 1e6 ** (0.01 / (1 - 0.99**201)), rel=1e-3)


def test_parts_of_split_tensors_have_the_mean_of_the_logarithms() -> None:
    """The second tensor is split over three processes, the first over none."""
    x = [torch.tensor([1.0, 2.0, 4.0])] * 2
    others = torch.tensor([[0.0, 0.0], [math.log(16.0) + math.log(2.0), 2.0]])
    assert Quantile(0.5)(x, total=lambda values: values + others).item() == pytest.approx(4.0)


def test_a_process_without_entries_has_the_unit_of_the_others() -> None:
    others = torch.tensor([[2 * math.log(5.0), 2.0]])
    for mine in (torch.zeros(0), torch.zeros(3)):
        assert Quantile(0.5)([mine], total=lambda values: values + others).item() == pytest.approx(5.0)


def test_a_sample_of_few_is_all() -> None:
    tensors = [torch.randn(30, 5), torch.randn(()), torch.randn(0), torch.randn(4, 3, 2).transpose(0, 2)]
    assert sorted(sample(tensors).tolist()) == sorted(torch.cat([t.flatten() for t in tensors]).tolist())


def test_a_sample_takes_from_each_tensor_in_proportion() -> None:
    """The entries say which tensor they are from."""
    shapes = [(1000, 1000), (512, 512, 3, 3), *[(64,)] * 400, (100_003,), (7,)]
    tensors = [torch.full(shape, float(i)) for i, shape in enumerate(shapes)]
    found = sample(tensors)
    assert 0.97 * SAMPLE <= len(found) <= SAMPLE
    counts = torch.bincount(found.long(), minlength=len(shapes)).double()
    sizes = torch.tensor([math.prod(shape) for shape in shapes], dtype=torch.double)
    expected = sizes / sizes.sum() * SAMPLE
    assert ((counts - expected).abs() <= 1 + 0.02 * expected).all()
    small = slice(2, 402)
    assert counts[small].sum().item() == pytest.approx(expected[small].sum().item(), abs=1.01)


def test_a_sample_sees_all_columns_and_rows_of_a_weight() -> None:
    """Also where the width is a power of two, as most are."""
    rows = torch.arange(4096.0)[:, None].expand(4096, 1024).contiguous()
    for values, width in (
        (rows.sub(2047.5).div(4096), 4096),
        (torch.arange(1024.0).sub(511.5).div(1024), 1024),
    ):
        found = sample([values.expand(4096, 1024).contiguous()])
        assert len(found.unique()) > min(width, SAMPLE // 127) * 0.9
        assert found.mean().item() == pytest.approx(0.0, abs=0.01)


def test_a_sample_of_another_memory_order_is_as_good() -> None:
    x = torch.randn(64, 256, 9, 9).to(memory_format=torch.channels_last)
    found = sample([x])
    assert torch.isin(found, x).all()
    assert found.std().item() == pytest.approx(1.0, abs=0.02)


def test_a_large_tensor_has_nearly_the_exact_quantile() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, (1000, 3000)))
    exact = np.quantile(np.abs(x.numpy()), 0.95)
    assert Quantile(0.95)([x]).item() == pytest.approx(exact, rel=0.03)


@given(st.floats(1e-12, 1e12))
def test_goes_with_the_scale(scale: float) -> None:
    x = torch.tensor([0.3, -1.0, 2.0, 0.0])
    assert Quantile(0.4)([scale * x]).item() == pytest.approx(scale * Quantile(0.4)([x]).item(), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.1, -0.5, math.nan])
def test_bad_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"Quantile\.share"):
        Quantile(share)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_bad_decay_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"Quantile\.decay"):
        Quantile(decay=decay)
