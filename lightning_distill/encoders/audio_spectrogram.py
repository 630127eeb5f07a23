"""A small convolutional audio encoder over log-mel spectrograms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_distill.encoders.base import Encoder


class LogMelCNN(Encoder):
    """Three 3x3 convolutions over time and frequency, pooled to four moments, then a linear layer.

    Args:
        mels: Mel bands of the input; at least 8.
        width: Channels after the first convolution; doubled after the second.
        embedding_dim: Width of the feature.
        normalise: Group normalisation after the second and third convolution. It takes out loudness and much
            of a line's colour; without it, an input far too loud stays so.
    """

    def __init__(
        self, mels: int = 40, width: int = 16, embedding_dim: int = 64, normalise: bool = True
    ) -> None:
        super().__init__(embedding_dim)
        self.mels = mels

        def norm() -> nn.Module:
            return nn.GroupNorm(4, 2 * width) if normalise else nn.Identity()

        self.layers = nn.Sequential(
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
            nn.Flatten(),
            nn.Linear(2 * width * 4 * (mels // 8), embedding_dim),
        )

    @property
    def requirements(self) -> Mapping[str, object]:
        """Mel bands."""
        return {"mels": self.mels}

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode normalised log-mel spectrograms "batch frames mels"."""
        return self.layers(inputs[:, None])
