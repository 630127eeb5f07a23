"""Several feature clips, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.feature_clipping.base import FeatureClip


class FeatureClipChain(FeatureClip):
    """x_clip = c_K(... c_2(c_1(x))): such as a bound on the feature and one on its gradient.

    In the backward pass the order is the reverse one. An entry counts as saturated where any of the clips
    finds it so, and saturation is logged where any of them acts in the forward pass.

    Args:
        clips: The clips c_k, at least one, in the order of the forward pass.

    Raises:
        ConfigError: If there is none.

    Source: composition; no formula of its own.

    >>> from lightning_distill.feature_clipping import BoundaryClip, HardClip
    >>> clip = FeatureClipChain([BoundaryClip(0.1), HardClip(1.0)])
    >>> clip(torch.tensor([[-3.0, 0.5]])).tolist()
    [[-1.0, 0.5]]
    """

    def __init__(self, clips: list[FeatureClip]) -> None:
        super().__init__()
        if not clips:
            raise ConfigError(
                where="FeatureClipChain.clips",
                found="none",
                expected="one or more",
                fix="leave the chain out",
            )
        self.clips = nn.ModuleList(clips)
        self.bounds_feature = any(clip.bounds_feature for clip in clips)

    def forward(self, x: Tensor, present: Tensor | None = None, fresh: bool = True) -> Tensor:
        """Clip x, "batch dim"."""
        for clip in self.clips:
            x = clip(x, present, fresh)
        return x

    def saturated(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Entries that any of the clips finds beyond its bound, each looking at what it gets."""
        found = torch.zeros_like(x, dtype=torch.bool)
        for clip in self.clips:
            found = found | clip.saturated(x, present)  # type: ignore[operator]
            x = clip(x, present, fresh=False)
        return found
