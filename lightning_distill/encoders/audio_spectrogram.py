"""A small convolutional audio encoder over log-mel spectrograms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.encoders.base import Encoder
from lightning_distill.sizes import check_sizes
from lightning_distill.structures import Feature, Tokens


class LogMelCNN(Encoder):
    """Three 3x3 convolutions over time and frequency, pooled to four moments, then a linear layer.

    With `tokens` the four moments stay apart: token_i = W [all bands of moment i] + b + p_i, with one W for
    all of them and a learned position p_i, which starts as N(0, 0.02^2).

    Args:
        mels: Mel bands of the input; at least 8.
        width: Channels after the first convolution; doubled after the second.
        embedding_dim: Width of the feature.
        normalise: Group normalisation after the second and third convolution. It takes out loudness and much
            of a line's colour; without it, an input far too loud stays so.
        tokens: Return the four moments as `Tokens`, in the order of time.
    """

    def __init__(
        self,
        mels: int = 40,
        width: int = 16,
        embedding_dim: int = 64,
        normalise: bool = True,
        tokens: bool = False,
    ) -> None:
        check_sizes(type(self).__name__, {"mels": mels, "width": width, "embedding_dim": embedding_dim})
        super().__init__(embedding_dim, tokens)
        self.mels = mels

        def norm() -> nn.Module:
            return nn.GroupNorm(4, 2 * width) if normalise else nn.Identity()

        layers: list[nn.Module] = [
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            norm(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            norm(),
            nn.ReLU(),
            nn.MaxPool2d((1, 2)),
            nn.AdaptiveAvgPool2d((4, mels // 8)),
        ]
        moment = 2 * width * (mels // 8)
        if tokens:
            self.layers = nn.Sequential(*layers)
            self.project = nn.Linear(moment, embedding_dim)
            self.positions = nn.Parameter(0.02 * torch.randn(4, embedding_dim))
        else:
            self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * moment, embedding_dim))

    @property
    def requirements(self) -> Mapping[str, object]:
        """Mel bands."""
        return {"mels": self.mels}

    def forward(self, inputs: Tensor) -> Feature:
        """Encode normalised log-mel spectrograms "batch frames mels"."""
        x: Tensor = self.layers(inputs[:, None])
        if not self.tokens:
            return x
        values = self.project(x.transpose(1, 2).flatten(2))
        values = values + self.positions.to(values.dtype)  # under autocast they are wider
        return Tokens(values, values.new_ones(values.shape[:2], dtype=torch.bool))
