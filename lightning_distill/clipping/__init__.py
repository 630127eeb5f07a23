"""Clip rules: what happens to gradients before the optimizer steps."""

from lightning_distill.clipping.ada_gc import AdaGC
from lightning_distill.clipping.adaptive import AdaptiveClip
from lightning_distill.clipping.auto_clip import AutoClip
from lightning_distill.clipping.base import ClipReport, ClipRule, check_positive, joined, range_at
from lightning_distill.clipping.block_rms import BlockRMSClip
from lightning_distill.clipping.chain import ClipChain
from lightning_distill.clipping.history_base import RuleByTensor
from lightning_distill.clipping.non_finite import (
    NonFiniteGuard,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
)
from lightning_distill.clipping.norm import NormClip
from lightning_distill.clipping.per_modality import PerModality
from lightning_distill.clipping.per_pattern import PerPattern
from lightning_distill.clipping.spike import SpikeClip
from lightning_distill.clipping.target_fraction import TargetFractionClip
from lightning_distill.clipping.tensor_norm import TensorNormClip
from lightning_distill.clipping.value import ValueClip
from lightning_distill.clipping.z_clip import ZClip

__all__ = [
    "AdaGC",
    "AdaptiveClip",
    "AutoClip",
    "BlockRMSClip",
    "ClipChain",
    "ClipReport",
    "ClipRule",
    "NonFiniteGuard",
    "NormClip",
    "PerModality",
    "PerPattern",
    "PropagateNonFinite",
    "RaiseNonFinite",
    "RuleByTensor",
    "SkipNonFinite",
    "SpikeClip",
    "TargetFractionClip",
    "TensorNormClip",
    "ValueClip",
    "ZClip",
    "check_positive",
    "joined",
    "range_at",
]
