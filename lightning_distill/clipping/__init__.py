"""Clip rules: what happens to gradients before the optimizer steps."""

from lightning_distill.clipping.ada_gc import AdaGC
from lightning_distill.clipping.auto_clip import AutoClip
from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.clipping.history import RuleByTensor
from lightning_distill.clipping.non_finite import (
    NonFiniteGuard,
    PropagateNonFinite,
    RaiseNonFinite,
    SkipNonFinite,
)
from lightning_distill.clipping.spike import SpikeClip
from lightning_distill.clipping.target_fraction import TargetFractionClip
from lightning_distill.clipping.value import ValueClip
from lightning_distill.clipping.z_clip import ZClip

__all__ = [
    "AdaGC",
    "AutoClip",
    "ClipReport",
    "ClipRule",
    "NonFiniteGuard",
    "PropagateNonFinite",
    "RaiseNonFinite",
    "RuleByTensor",
    "SkipNonFinite",
    "SpikeClip",
    "TargetFractionClip",
    "ValueClip",
    "ZClip",
]
