"""The contract of an encoder: one modality's input in, one feature vector out, or one for each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_distill.structures import Feature


class Encoder(nn.Module, ABC):
    """Encodes one modality.

    Rows must not influence each other in eval mode, and a row of zeros must give finite features: absent
    samples arrive as zeros and are masked out behind the encoder.

    Args:
        embedding_dim: Width of the feature it returns.
        tokens: Whether it returns `Tokens`, a feature for each part of the input, as fusion heads read them
            that attend from one modality to another. An option of that name lets users choose.
    """

    def __init__(self, embedding_dim: int, tokens: bool = False) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.tokens = tokens

    @abstractmethod
    def forward(self, inputs: Any) -> Feature:
        """Encode a batch to "batch embedding_dim", or to `Tokens` of that width."""

    @property
    def requirements(self) -> Mapping[str, object]:
        """Settings its modality's processor must have; none by default.

        A `vocabulary_size` is the most the processor may have, everything else must be equal.
        """
        return {}

    def portable_init_args(self, folder: Path) -> dict[str, Any]:
        """What to change in the init args so that the architecture can be rebuilt without pretrained files.

        Called when the model is saved. An encoder that reads its architecture from somewhere else writes
        that (not the weights) into `folder`, which need not exist yet, and points there.

        Args:
            folder: Belongs to this encoder; paths below it may be returned as plain strings.

        Returns:
            Init args to replace; none by default.
        """
        return {}
