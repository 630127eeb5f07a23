"""Binary cross-entropy and metrics against float64 NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_distill.structures import UNKNOWN
from lightning_distill.tasks import Multilabel, known_binary_cross_entropy

Array = NDArray[np.float64]
Labels = NDArray[np.int8]


def draw(rows: int, classes: int = 3, scale: float = 2.0, unknown: float = 0.2) -> tuple[Array, Labels]:
    rng = np.random.default_rng(rows)
    target = rng.integers(2, size=(rows, classes)).astype(np.int8)
    target[rng.random((rows, classes)) < unknown] = UNKNOWN
    return scale * rng.normal(size=(rows, classes)), target


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def f1(said: NDArray[np.bool_], target: Labels) -> float:
    """2 TP / (2 TP + FP + FN) over known entries; 0 where there is nothing to count."""
    known = target != UNKNOWN
    hits = np.sum(said & (target == 1))
    named = np.sum(said & known) + np.sum(target == 1)
    return float(2 * hits / named) if named else 0.0


def average_precision(scores: Array, target: Labels) -> float:
    """Sum over thresholds of (R_n - R_{n-1}) P_n, thresholds from high to low, known entries only."""
    scores, truth = scores[target != UNKNOWN], target[target != UNKNOWN] == 1
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall = np.sum(truth & chosen) / np.sum(truth)
        total += (recall - before) * np.sum(truth & chosen) / np.sum(chosen)
        before = recall
    return float(total)


def expected_metrics(logits: Array, target: Labels) -> dict[str, float]:
    said, known = sigmoid(logits) > 0.5, target != UNKNOWN
    columns = range(logits.shape[1])
    there = [k for k in columns if (target[:, k] == 1).any()]
    precisions = [average_precision(logits[:, k], target[:, k]) for k in there]
    return {
        "micro_f1": f1(said, target),
        "macro_f1": float(np.mean([f1(said[:, k], target[:, k]) for k in columns])),
        "mean_average_precision": float(np.mean(precisions)) if there else 0.0,
        "exact_match": float(np.mean([np.all((said == (target == 1)) | ~known, axis=1)])),
    }


def measured(logits: Array, target: Labels, *cuts: int) -> dict[str, float]:
    metrics = Multilabel().metrics(logits.shape[1])
    for at in np.split(np.arange(len(logits)), list(cuts)):
        metrics.update(torch.from_numpy(logits[at]).float(), torch.from_numpy(target[at]))
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rows", [1, 7])
def test_cross_entropy_over_known_entries(rows: int, weighted: bool) -> None:
    logits, target = draw(rows)
    target[0, 0] = 1
    weight = np.linspace(0.5, 2, rows, dtype=np.float32) if weighted else np.ones(rows, np.float32)
    p, known = sigmoid(logits), target != UNKNOWN
    values = np.where(target == 1, -np.log(p), -np.log(1 - p))[known]
    expected = np.average(values, weights=np.broadcast_to(weight[:, None], known.shape)[known])
    given = torch.from_numpy(weight) if weighted else None
    value = known_binary_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target), given)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(Multilabel().loss(torch.from_numpy(logits), torch.from_numpy(target), given), value)


def test_unknown_entries_get_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    target = torch.tensor([[1, UNKNOWN, 0], [UNKNOWN, 1, UNKNOWN]], dtype=torch.int8)
    Multilabel().loss(logits, target).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, target != UNKNOWN)


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 0.0), (0.05, 0.5)])
def test_metrics_over_uneven_batches(scale: float, shift: float) -> None:
    """Scale 0.05 and shift 0.5 make logits in [0, 1], which are no probabilities for all that."""
    logits, target = draw(61, scale=scale)
    logits += shift
    assert measured(logits, target, 8, 16, 40, 41) == pytest.approx(
        expected_metrics(logits, target), rel=1e-5
    )


@pytest.mark.parametrize("value", [0, 1, UNKNOWN])
def test_L3_metrics_where_a_class_is_always_or_never_there(value: int) -> None:
    logits, target = draw(12)
    target[:, 1] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured(logits, target) == pytest.approx(expected_metrics(logits, target), rel=1e-5)


@pytest.mark.parametrize("value", [0, 1])
def test_L3_metrics_where_all_samples_are_alike(value: int) -> None:
    logits, target = draw(12)
    target[:] = value
    assert measured(logits, target) == pytest.approx(expected_metrics(logits, target), rel=1e-5)


def test_agreement_and_prediction_are_about_a_threshold_of_a_half() -> None:
    (ours, _), (theirs, _) = draw(30), draw(31)
    metric = Multilabel().agreement(3)
    metric.update(torch.from_numpy(ours), torch.from_numpy(theirs[:30]))
    expected = np.mean((sigmoid(ours) > 0.5) == (sigmoid(theirs[:30]) > 0.5))
    assert metric.compute().item() == pytest.approx(expected)
    said = Multilabel().predict(torch.from_numpy(ours))
    assert np.array_equal(said["prediction"].numpy(), sigmoid(ours) > 0.5)
    assert np.allclose(said["probabilities"], sigmoid(ours), rtol=1e-5)


def test_scores_against_numpy() -> None:
    logits, target = draw(29)
    target[4] = UNKNOWN
    found = Multilabel().scores(torch.from_numpy(logits), torch.from_numpy(target))
    assert list(found) == ["log_likelihood", "accuracy"]
    p, known = sigmoid(logits), np.ma.masked_array
    likelihood = known(np.where(target == 1, np.log(p), np.log(1 - p)), target == UNKNOWN).mean(axis=1)
    right = known((p > 0.5) == (target == 1), target == UNKNOWN).mean(axis=1)
    np.testing.assert_allclose(found["log_likelihood"], likelihood.filled(np.nan), rtol=1e-9)
    np.testing.assert_allclose(found["accuracy"], right.filled(np.nan))


def test_constant_logits_are_log_odds() -> None:
    """Of known entries; labels that all have, that none has, that are nowhere known."""
    columns = [[1, 0, 0, UNKNOWN, 0], [1, 1, UNKNOWN, 1, 1], [0] * 5, [UNKNOWN] * 5]
    target = torch.tensor(columns, dtype=torch.int8).T
    found = Multilabel().constant_logits(target, 4)
    assert found.tolist() == pytest.approx([np.log(1 / 3), 100, -100, 0])
    entropy = -(np.log(0.25) + 3 * np.log(0.75)) / 13
    assert Multilabel().loss(found.expand(5, -1), target).item() == pytest.approx(entropy, rel=1e-12)
