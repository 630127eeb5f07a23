"""A small convolutional image encoder, trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_distill.encoders.base import Encoder
from lightning_distill.sizes import check_sizes
from lightning_distill.structures import Feature, Tokens


class ImageCNN(Encoder):
    """Three 3x3 convolutions with group normalisation and pooling, then a linear layer.

    Group normalisation keeps the rows of a batch apart, which batch normalisation does not.

    The last map is pooled to 3 x 3 cells. With `tokens` the cells stay apart: token_i = W cell_i + b + p_i,
    with one W for all of them and a learned position p_i, which starts as N(0, 0.02^2).

    Args:
        channels: Of the image, 1 or 3.
        width: Channels after the first convolution; doubled after the second.
        embedding_dim: Width of the feature.
        tokens: Return the nine cells as `Tokens`, row by row.
    """

    def __init__(
        self, channels: int = 1, width: int = 16, embedding_dim: int = 64, tokens: bool = False
    ) -> None:
        check_sizes(
            type(self).__name__, {"channels": channels, "width": width, "embedding_dim": embedding_dim}
        )
        super().__init__(embedding_dim, tokens)
        self.channels = channels
        layers: list[nn.Module] = [
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
        ]
        if tokens:
            self.layers = nn.Sequential(*layers)
            self.project = nn.Linear(2 * width, embedding_dim)
            self.positions = nn.Parameter(0.02 * torch.randn(9, embedding_dim))
        else:
            self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 9, embedding_dim))

    @property
    def requirements(self) -> Mapping[str, object]:
        """Channels of the image."""
        return {"channels": self.channels}

    def forward(self, inputs: Tensor) -> Feature:
        """Encode uint8 (or float 0..255) images "batch channels height width"."""
        x: Tensor = self.layers(inputs.to(torch.get_default_dtype()) / 127.5 - 1.0)
        if not self.tokens:
            return x
        values = self.project(x.flatten(2).transpose(1, 2))
        values = values + self.positions.to(values.dtype)  # under autocast they are wider
        return Tokens(values, values.new_ones(values.shape[:2], dtype=torch.bool))
