"""Clip rules: what happens to gradients before the optimizer steps."""

from lightning_distill.clipping.base import ClipReport, ClipRule
from lightning_distill.clipping.value import ValueClip

__all__ = ["ClipReport", "ClipRule", "ValueClip"]
