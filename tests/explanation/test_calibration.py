"""Calibration against its definition in float64 NumPy, and against the metric that is logged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from lightning_distill.explanation.calibration import calibration


def drawn(count: int = 400, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = sharpness * torch.randn(count, 4, generator=generator)
    return logits.softmax(dim=1), torch.randint(0, 4, (count,), generator=generator)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_against_the_definition(bins: int) -> None:
    probabilities, target = drawn()
    p, y = probabilities.double().numpy(), target.numpy()
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    found = calibration(probabilities, target, bins)
    error, filled = 0.0, iter(found.bins)
    for low, high in zip(np.arange(bins) / bins, (np.arange(bins) + 1) / bins, strict=True):
        inside = (confidence >= low) & (confidence < high)
        if not inside.any():
            continue
        one = next(filled)
        assert (one.low, one.high) == pytest.approx((low, high))
        assert one.samples == inside.sum()
        assert one.confidence == pytest.approx(confidence[inside].mean(), abs=1e-7)
        assert one.accuracy == pytest.approx(right[inside].mean())
        error += abs(right[inside].sum() - confidence[inside].sum()) / len(y)
    assert next(filled, None) is None
    assert found.error == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 60.0])
def test_equals_the_metric_that_is_logged(sharpness: float) -> None:
    """At 60 many a confidence is exactly 1."""
    probabilities, target = drawn(sharpness=sharpness)
    metric = MulticlassCalibrationError(4, n_bins=15, norm="l1")
    metric.update(probabilities, target)
    found = calibration(probabilities, target)
    assert found.error == float(metric.compute())
    assert sum(one.samples for one in found.bins) == 400
    assert sharpness < 60 or found.bins[-1].high == 1.0


def test_by_hand() -> None:
    """Two samples at 0.9, one right; one at 0.6, right: (2 * 0.4 + 1 * 0.4) / 3."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    found = calibration(probabilities, torch.tensor([0, 1, 1]), bins=5)
    assert found.error == pytest.approx(0.4)
    assert [(b.samples, b.accuracy) for b in found.bins] == [(1, 1.0), (2, 0.5)]


def test_a_bin_begins_with_its_low_end() -> None:
    found = calibration(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]), bins=2)
    assert [(b.low, b.high, b.samples) for b in found.bins] == [(0.5, 1.0, 2)]
