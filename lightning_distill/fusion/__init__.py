"""Fusion heads: features of several modalities in, one fused feature out."""

from lightning_distill.fusion.attention import AttentionFusion
from lightning_distill.fusion.base import FusionHead
from lightning_distill.fusion.concat import ConcatFusion
from lightning_distill.fusion.gated import GatedFusion

__all__ = ["AttentionFusion", "ConcatFusion", "FusionHead", "GatedFusion"]
