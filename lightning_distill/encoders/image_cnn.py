"""A small convolutional image encoder, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.encoders.base import Encoder


class ImageCNN(Encoder):
    """Three 3x3 convolutions with group normalisation and pooling, then a linear layer.

    Group normalisation keeps the rows of a batch apart, which batch normalisation does not.

    Args:
        channels: Of the image, 1 or 3.
        width: Channels after the first convolution; doubled after the second.
        embedding_dim: Width of the feature.
    """

    def __init__(self, channels: int = 1, width: int = 16, embedding_dim: int = 64) -> None:
        super().__init__(embedding_dim)
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(2 * width * 9, embedding_dim),
        )

    @property
    def requirements(self) -> Mapping[str, object]:
        """Channels of the image."""
        return {"channels": self.channels}

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode uint8 (or float 0..255) images "batch channels height width"."""
        return self.layers(inputs.to(torch.get_default_dtype()) / 127.5 - 1.0)
