"""Feature clips: bounds on the feature of a modality, on the fused one, or on their gradients."""

from lightning_distill.feature_clipping.base import ElementwiseClip, FeatureClip, share_among
from lightning_distill.feature_clipping.boundary import BoundaryClip
from lightning_distill.feature_clipping.chain import FeatureClipChain
from lightning_distill.feature_clipping.hard import HardClip
from lightning_distill.feature_clipping.norm_ball import NormBallClip
from lightning_distill.feature_clipping.straight_through import StraightThroughClip
from lightning_distill.feature_clipping.tanh import TanhClip
from lightning_distill.feature_clipping.towards import TowardsClip

__all__ = [
    "BoundaryClip",
    "ElementwiseClip",
    "FeatureClip",
    "FeatureClipChain",
    "HardClip",
    "NormBallClip",
    "StraightThroughClip",
    "TanhClip",
    "TowardsClip",
    "share_among",
]
