"""What one step of fusion sees and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
"""Probabilities and the like."""


@dataclass(frozen=True)
class FusionContext:
    """What is known of the samples; rows in the order of the probabilities.

    Attributes:
        target: bool "samples", True in the new domain.
        label: int64 "samples", `UNLABELLED` where training sees no label.
        embedding: float "samples dim", of the first teacher; None where it has none.
    """

    target: NDArray[np.bool_]
    label: NDArray[np.int64]
    embedding: NDArray[Any] | None


class FusionStep(ABC):
    """Changes what the teachers say of the new domain, by what that domain's data tell.

    A step of your own is a subclass with `apply`. Its attributes are written into knowledge.json.
    """

    @abstractmethod
    def apply(self, probabilities: Floats, context: FusionContext) -> Floats:
        """The better answers.

        Args:
            probabilities: float64 "samples classes", rows that add up to 1; not to be written to.
            context: What else is known.

        Returns:
            The same shape, again rows that add up to 1. Rows of the source domains should stay as they are.
        """
