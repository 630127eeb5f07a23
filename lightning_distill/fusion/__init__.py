"""Fusion heads: features of several modalities in, one fused feature out."""

from lightning_distill.fusion.attention import AttentionFusion
from lightning_distill.fusion.base import FusionHead, power_normalize, product, signed_sqrt
from lightning_distill.fusion.block import BLOCKFusion
from lightning_distill.fusion.bottleneck import BottleneckFusion
from lightning_distill.fusion.concat import ConcatFusion
from lightning_distill.fusion.concat_mlp import ConcatMLPFusion
from lightning_distill.fusion.cross_attention import CrossAttentionFusion
from lightning_distill.fusion.deep_sets import DeepSetsFusion
from lightning_distill.fusion.experts import MixtureOfExpertsFusion
from lightning_distill.fusion.film import FiLMFusion
from lightning_distill.fusion.gated import GatedFusion
from lightning_distill.fusion.late import LateFusion
from lightning_distill.fusion.low_rank import LowRankFusion
from lightning_distill.fusion.mcb import MCBFusion, compact_bilinear, count_sketch
from lightning_distill.fusion.mean import MeanFusion
from lightning_distill.fusion.mfb import MFBFusion
from lightning_distill.fusion.mlb import MLBFusion
from lightning_distill.fusion.mutan import MUTANFusion
from lightning_distill.fusion.placeholders import LearnedPlaceholders
from lightning_distill.fusion.sum import SumFusion
from lightning_distill.fusion.tensor import TensorFusion
from lightning_distill.fusion.token_attention import TokenAttentionFusion
from lightning_distill.fusion.weighted import WeightedFusion

__all__ = [
    "AttentionFusion",
    "BLOCKFusion",
    "BottleneckFusion",
    "ConcatFusion",
    "ConcatMLPFusion",
    "CrossAttentionFusion",
    "DeepSetsFusion",
    "FiLMFusion",
    "FusionHead",
    "GatedFusion",
    "LateFusion",
    "LearnedPlaceholders",
    "LowRankFusion",
    "MCBFusion",
    "MFBFusion",
    "MLBFusion",
    "MUTANFusion",
    "MeanFusion",
    "MixtureOfExpertsFusion",
    "SumFusion",
    "TensorFusion",
    "TokenAttentionFusion",
    "WeightedFusion",
    "compact_bilinear",
    "count_sketch",
    "power_normalize",
    "product",
    "signed_sqrt",
]
