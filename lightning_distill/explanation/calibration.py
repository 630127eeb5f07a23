"""How far a model's confidence can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error


@dataclass(frozen=True)
class Bin:
    """Samples of similar confidence.

    Attributes:
        low: Least confidence of the bin.
        high: Largest.
        confidence: Mean of those in it.
        accuracy: Share of them that is right.
        samples: How many they are.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy.

    Attributes:
        error: Expected calibration error, in [0, 1].
        bins: Those that are not empty, from low to high confidence.
    """

    error: float
    bins: tuple[Bin, ...]


def calibration(probabilities: Tensor, target: Tensor, bins: int = 15) -> Calibration:
    """Sort samples into bins of equal width by their largest probability; a bin begins with its `low`.

    The error is that of the metric `calibration_error`: sum over bins of samples / all samples * |confidence
    - accuracy|. There a confidence of exactly 1 is a bin of its own; here it is in the last one.

    Args:
        probabilities: "samples classes".
        target: Class indices, int64 "samples".
        bins: How many, from 0 to 1.

    Source: Guo et al., On Calibration of Modern Neural Networks (1706.04599), section 2.
    """
    confidence, said = probabilities.max(dim=1)
    right = (said == target).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)
    place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=bins - 1)
    found = []
    for at in range(bins):
        inside = place == at
        if count := int(inside.sum()):
            means = float(confidence[inside].double().mean()), float(right[inside].mean())
            found.append(Bin(at / bins, (at + 1) / bins, *means, count))
    error = multiclass_calibration_error(probabilities, target, probabilities.shape[1], bins, norm="l1")
    return Calibration(float(error), tuple(found))
