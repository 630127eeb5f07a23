"""Choosing the range of a clip: one training without it, then a handful from the same start."""

from lightning_distill.range_finding.finder import ClipRangeFinder, ClipRangeResult
from lightning_distill.range_finding.places import FeatureRange, GradientRange

__all__ = ["ClipRangeFinder", "ClipRangeResult", "FeatureRange", "GradientRange"]
