"""How far a model's confidence can be believed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
    """Sort samples into bins of equal width by their largest probability.

    Args:
        probabilities: "samples classes".
        target: Class indices, int64 "samples".
        bins: How many, from 0 to 1.

    Source: Guo et al., On Calibration of Modern Neural Networks (1706.04599), section 2.
    """
    raise NotImplementedError
