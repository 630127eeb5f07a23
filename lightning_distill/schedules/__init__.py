"""Weights of terms that change during training."""

from lightning_distill.schedules.base import WeightSchedule
from lightning_distill.schedules.ramp import CosineRamp
from lightning_distill.schedules.warmup import LinearWarmup

__all__ = ["CosineRamp", "LinearWarmup", "WeightSchedule"]
