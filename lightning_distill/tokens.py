"""Tokens of a transformer as a feature map, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of a transformer lie in an image or a spectrogram.

    Args:
        height: Rows of patches.
        width: Patches a row.
        prefix: Tokens before the patches, such as the class token and registers.
    """

    height: int
    width: int
    prefix: int = 1


def as_map(x: Tensor, grid: TokenGrid | None = None) -> Tensor:
    """A feature map "batch channels height width".

    Args:
        x: A map already, or tokens "batch tokens channels".
        grid: Where the tokens lie; None for what is a map already.

    Raises:
        ConfigError: If `x` is no map and no grid says how to make it one, or the grid has other tokens.

    >>> as_map(torch.zeros(2, 17, 8), TokenGrid(4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """
    if x.ndim == 4:
        return x
    if grid is None or x.ndim != 3 or x.shape[1] != grid.prefix + grid.height * grid.width:
        raise ConfigError(
            where="feature map",
            found=f"a tensor of shape {tuple(x.shape)}" + (f" and {grid}" if grid else ""),
            expected="batch x channels x height x width, or tokens and a TokenGrid whose "
            "prefix + height * width is the number of tokens",
            fix="name a layer whose output is a map, or set the grid",
        )
    return x[:, grid.prefix :].transpose(1, 2).unflatten(2, (grid.height, grid.width))


def as_tokens(x: Tensor) -> Tensor:
    """Tokens "batch tokens channels" from a map "batch channels height width".

    Raises:
        ConfigError: If `x` is no map.

    >>> as_tokens(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 16, 8])
    """
    if x.ndim != 4:
        raise ConfigError(
            where="tokens",
            found=f"a tensor of shape {tuple(x.shape)}",
            expected="a map, batch x channels x height x width",
            fix="name a layer whose output is a map",
        )
    return x.flatten(2).transpose(1, 2)


def map_shape(shape: Sequence[int], grid: TokenGrid | None = None) -> tuple[int, int, int]:
    """Channels, height and width that `as_map` makes of a shape without its batch dimension.

    Raises:
        ConfigError: As `as_map`.

    >>> map_shape((17, 8), TokenGrid(4, 4))
    (8, 4, 4)
    """
    channels, height, width = as_map(torch.empty(1, *shape, device="meta"), grid).shape[1:]
    return channels, height, width


def pooled_alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps "batch channels height width" at the smaller height and width, by average pooling.

    >>> [tuple(x.shape) for x in pooled_alike(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 6))]
    [(2, 3, 4, 6), (2, 5, 4, 6)]
    """
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    pooled = [x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b)]
    return pooled[0], pooled[1]
