"""Feature clips: bounds on the fused feature."""

from lightning_distill.feature_clipping.base import FeatureClip
from lightning_distill.feature_clipping.hard import HardClip

__all__ = ["FeatureClip", "HardClip"]
