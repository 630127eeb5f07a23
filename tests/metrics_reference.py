"""Metrics in float64 NumPy, from their definitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def probabilities(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def accuracy(logits: Array, target: Labels) -> float:
    return float(np.mean(logits.argmax(axis=1) == target))


def macro_f1(logits: Array, target: Labels) -> float:
    """Mean over the classes that occur, as a label or as a prediction."""
    predicted, scores = logits.argmax(axis=1), []
    for k in range(logits.shape[1]):
        hits = np.sum((predicted == k) & (target == k))
        named = np.sum(predicted == k) + np.sum(target == k)
        if named:
            scores.append(2 * hits / named)
    return float(np.mean(scores))


def calibration_error(logits: Array, target: Labels, bins: int = 15) -> float:
    """Guo et al. (1706.04599), equation 3: sum over bins of |accuracy - confidence|, weighted by samples."""
    p = probabilities(logits)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == target
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(np.sum(correct[which == b]) - np.sum(confidence[which == b])) for b in range(bins)]
    return float(np.sum(gaps) / len(target))
