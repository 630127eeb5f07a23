"""Cross-entropy and metrics against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.errors import ConfigError
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


def test_cross_entropy_with_weights() -> None:
    logits, target = draw(7, 5)
    target[1::3] = UNLABELLED
    weight = np.linspace(0.5, 2, 7, dtype=np.float32)
    kept = np.flatnonzero(target != UNLABELLED)
    entropy = -np.log(probabilities(logits[kept])[np.arange(len(kept)), target[kept]])
    value = Classification().loss(*map(torch.from_numpy, (logits, target, weight)))
    assert value.item() == pytest.approx(np.average(entropy, weights=weight[kept]), rel=1e-6)


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


@pytest.mark.parametrize("only", [0, 2])
def test_L3_metrics_where_one_class_is_all_there_is(only: int) -> None:
    logits, _ = draw(9, 3)
    target = np.full(9, only)
    metrics = Classification().metrics(3)
    metrics.update(torch.from_numpy(logits).float(), torch.from_numpy(target))
    found = {name: value.item() for name, value in metrics.compute().items()}
    expected = {
        "accuracy": accuracy(logits, target),
        "macro_f1": macro_f1(logits, target),
        "calibration_error": calibration_error(logits, target),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_agreement_and_prediction_are_about_the_most_likely_class() -> None:
    (ours, _), (theirs, _) = draw(30, 4), draw(31, 4)
    metric = Classification().agreement(4)
    metric.update(torch.from_numpy(ours), torch.from_numpy(theirs[:30]))
    assert metric.compute().item() == pytest.approx(np.mean(ours.argmax(1) == theirs[:30].argmax(1)))
    said = Classification().predict(torch.from_numpy(ours))
    assert said["prediction"].tolist() == ours.argmax(1).tolist()
    assert np.allclose(said["probabilities"], probabilities(ours))


def test_scores_against_numpy() -> None:
    logits, target = draw(31, 4)
    target[2::5] = UNLABELLED
    kept = target != UNLABELLED
    found = Classification().scores(torch.from_numpy(logits), torch.from_numpy(target))
    assert list(found) == ["log_likelihood", "accuracy"]
    likelihood = np.log(probabilities(logits)[np.arange(31), target.clip(0)])
    right = logits.argmax(axis=1) == target
    np.testing.assert_allclose(found["log_likelihood"], np.where(kept, likelihood, np.nan), rtol=1e-12)
    np.testing.assert_array_equal(found["accuracy"], np.where(kept, right, np.nan))


def test_constant_logits_are_log_frequencies() -> None:
    """Of five classes the last two are never seen: they must cost the others nothing."""
    target = torch.tensor([0, 1, 1, UNLABELLED, 2, 1, UNLABELLED])
    found = Classification().constant_logits(target, 5)
    assert found.tolist() == pytest.approx([np.log(0.2), np.log(0.6), np.log(0.2), -100, -100])
    entropy = -(0.4 * np.log(0.2) + 0.6 * np.log(0.6))
    assert Classification().loss(found.expand(7, -1), target).item() == pytest.approx(entropy, rel=1e-12)


@pytest.mark.parametrize("ask", ["check", "metrics", "agreement"])
def test_one_class_is_no_task(ask: str) -> None:
    task = Classification()
    with pytest.raises(ConfigError, match=r"1 for the task Classification; expected 2 or more.*Regression"):
        task.check(torch.tensor([0]), 1) if ask == "check" else getattr(task, ask)(1)
