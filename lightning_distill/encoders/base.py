"""The contract of an encoder: one modality's input in, one feature vector out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Encodes one modality.

    Rows must not influence each other in eval mode, and a row of zeros must give finite features: absent
    samples arrive as zeros and are masked out behind the encoder.

    Args:
        embedding_dim: Width of the feature it returns.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """Encode a batch to "batch embedding_dim"."""
