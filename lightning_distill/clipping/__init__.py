"""Clip rules: what happens to gradients before the optimizer steps."""

from lightning_distill.clipping.base import ClipRule
from lightning_distill.clipping.value import ValueClip

__all__ = ["ClipRule", "ValueClip"]
