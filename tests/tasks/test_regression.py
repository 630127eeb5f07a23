"""Squared error and metrics against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.errors import ConfigError
from lightning_distill.tasks import Regression, known_squared_error

Array = NDArray[np.float64]


def draw(rows: int, outputs: int = 3, unknown: float = 0.2) -> tuple[Array, NDArray[np.float32]]:
    rng = np.random.default_rng(rows)
    target = rng.normal(size=(rows, outputs)).astype(np.float32)
    target[rng.random((rows, outputs)) < unknown] = np.nan
    return rng.normal(size=(rows, outputs)), target


def r2(outputs: Array, target: Array) -> float:
    """Mean over columns with two targets or more that differ; 0 where there is none."""
    found = []
    for y, t in zip(outputs.T, target.T, strict=True):
        y, t = y[np.isfinite(t)], t[np.isfinite(t)]
        if len(t) > 1 and np.ptp(t) > 0:
            found.append(1 - np.sum((y - t) ** 2) / np.sum((t - t.mean()) ** 2))
    return float(np.mean(found)) if found else 0.0


def expected_metrics(outputs: Array, target: NDArray[np.float32]) -> dict[str, float]:
    truth = target.astype(np.float64)
    errors = (outputs - truth)[np.isfinite(truth)]
    rmse = float(np.sqrt(np.mean(errors**2)))
    return {"mae": float(np.mean(np.abs(errors))), "rmse": rmse, "r2": r2(outputs, truth)}


def measured(outputs: Array, target: NDArray[np.float32], *cuts: int) -> dict[str, float]:
    metrics = Regression().metrics(outputs.shape[1])
    for at in np.split(np.arange(len(outputs)), list(cuts)):
        metrics.update(torch.from_numpy(outputs[at]).float(), torch.from_numpy(target[at]))
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [1, 7])
def test_squared_error_over_known_entries(rows: int, weighted: bool) -> None:
    outputs, target = draw(rows)
    target[0, 0] = 0.5
    weight = np.linspace(0.5, 2, rows, dtype=np.float32) if weighted else np.ones(rows, np.float32)
    known = np.isfinite(target)
    expected = np.average(
        ((outputs - target) ** 2)[known], weights=np.broadcast_to(weight[:, None], known.shape)[known]
    )
    given = torch.from_numpy(weight) if weighted else None
    value = known_squared_error(torch.from_numpy(outputs), torch.from_numpy(target), given)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(Regression().loss(torch.from_numpy(outputs), torch.from_numpy(target), given), value)


def test_unknown_entries_get_no_gradient() -> None:
    outputs = torch.randn(2, 2, requires_grad=True)
    target = torch.tensor([[1.0, torch.nan], [torch.nan, 2.0]])
    Regression().loss(outputs, target).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert torch.equal(outputs.grad != 0, target.isfinite())


@pytest.mark.parametrize("outputs", [1, 3])
def test_metrics_over_uneven_batches(outputs: int) -> None:
    y, target = draw(61, outputs)
    assert measured(y, target, 8, 16, 40, 41) == pytest.approx(expected_metrics(y, target), rel=1e-5)


def test_r2_of_numbers_far_from_0() -> None:
    """Sums of squares in float32 would have no digits left."""
    rng = np.random.default_rng(3)
    target = (20_000 + rng.normal(size=(200, 1))).astype(np.float32)
    y = (target + 0.3 * rng.normal(size=(200, 1)).astype(np.float32)).astype(np.float64)
    assert measured(y, target, 60, 61)["r2"] == pytest.approx(expected_metrics(y, target)["r2"], abs=1e-3)


@pytest.mark.parametrize("case", ["one sample", "all equal", "one known", "one column without any"])
def test_r2_where_it_is_not_defined(case: str) -> None:
    y, target = draw(1 if case == "one sample" else 9, unknown=0)
    if case == "all equal":
        target[:] = 0.5
    if case == "one known":
        target[1:] = np.nan
    if case == "one column without any":
        target[:, 1] = np.nan
    assert measured(y, target) == pytest.approx(expected_metrics(y, target), rel=1e-5)


def test_r2_of_several_processes_is_that_of_the_whole() -> None:
    """What torchmetrics does between processes: states without a reduction arrive stacked."""
    y, target = draw(40)
    whole = Regression().metrics(3)["r2"]
    parts = [Regression().metrics(3)["r2"] for _ in range(3)]
    slices = (slice(0, 25), slice(25, 40))  # and a process that has seen nothing
    whole.update(torch.from_numpy(y), torch.from_numpy(target))
    for part, rows in zip(parts, slices, strict=False):
        part.update(torch.from_numpy(y[rows]), torch.from_numpy(target[rows]))
    joined = Regression().metrics(3)["r2"]
    for name in ("count", "mean", "spread", "residual"):
        setattr(joined, name, torch.stack([getattr(part, name) for part in reversed(parts)]))
    joined._update_count = 1
    assert joined.compute().item() == pytest.approx(whole.compute().item(), rel=1e-5)


def test_agreement_and_prediction_are_about_the_numbers() -> None:
    (ours, _), (theirs, _) = draw(30), draw(31)
    metric = Regression().agreement(3)
    metric.update(torch.from_numpy(ours), torch.from_numpy(theirs[:30]))
    assert metric.compute().item() == pytest.approx(np.mean(np.abs(ours - theirs[:30])), rel=1e-5)
    said = Regression().predict(torch.from_numpy(ours))
    assert set(said) == {"prediction"}
    assert np.array_equal(said["prediction"].numpy(), ours)


def test_scores_against_numpy() -> None:
    y, target = draw(30)
    target[7] = np.nan
    found = Regression().scores(torch.from_numpy(y), torch.from_numpy(target))
    assert list(found) == ["minus_squared_error"]
    squares = np.ma.masked_invalid((y - target.astype(np.float64)) ** 2)
    np.testing.assert_allclose(found["minus_squared_error"], -squares.mean(axis=1).filled(np.nan), rtol=1e-9)


def test_constant_logits_are_means() -> None:
    """Of known entries, also of numbers far from 0, and 0 where none is known."""
    _, target = draw(200)
    target[:, 1] += 1e6
    target[:, 2] = np.nan
    found = Regression().constant_logits(torch.from_numpy(target), 3)
    expected = np.nanmean(target[:, :2].astype(np.float64), axis=0)
    assert found.tolist() == pytest.approx([*expected, 0], rel=1e-12)


def test_targets_need_a_second_dimension() -> None:
    with pytest.raises(ConfigError, match="second dimension"):
        Regression().check(torch.zeros(4), 1)
