"""Cross-entropy and metrics against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.structures import UNLABELLED
from lightning_distill.tasks import Classification, labelled_cross_entropy
from tests.metrics_reference import accuracy, calibration_error, macro_f1, probabilities

Array = NDArray[np.float64]


def draw(rows: int, classes: int, scale: float = 2.0) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(rows)
    return scale * rng.normal(size=(rows, classes)), rng.integers(classes, size=rows)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rows", [1, 7])
def test_cross_entropy_over_labelled_rows(rows: int, classes: int) -> None:
    logits, target = draw(rows, classes)
    target[1::3] = UNLABELLED
    kept = np.flatnonzero(target != UNLABELLED)
    expected = -np.mean(np.log(probabilities(logits[kept])[np.arange(len(kept)), target[kept]]))
    value = labelled_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target))
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(Classification().loss(torch.from_numpy(logits), torch.from_numpy(target)), value)


def test_cross_entropy_gradcheck() -> None:
    target = torch.tensor([0, UNLABELLED, 2, 1])
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: labelled_cross_entropy(z, target), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = labelled_cross_entropy(logits, torch.tensor([1, 1]))
    value.backward()
    assert value.item() == pytest.approx(1e4, rel=1e-2)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [0.05, 2.0])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_metrics_over_uneven_batches(classes: int, scale: float, shift: float) -> None:
    """Scale 0.05 and shift 0.5 make logits in [0, 1], which are no probabilities for all that."""
    logits, target = draw(61, classes, scale)
    logits += shift
    target[target == classes - 1] = 0  # one class is only ever predicted
    metrics = Classification().metrics(classes)
    for at in np.split(np.arange(61), [8, 16, 40, 41]):
        metrics.update(torch.from_numpy(logits[at]).float(), torch.from_numpy(target[at]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    expected = {
        "accuracy": accuracy(logits, target),
        "macro_f1": macro_f1(logits, target),
        "calibration_error": calibration_error(logits, target),
    }
    assert found == pytest.approx(expected, rel=1e-5)
