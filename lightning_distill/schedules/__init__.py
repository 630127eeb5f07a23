"""Numbers that change during training: weights of terms, ranges of clip rules."""

from lightning_distill.schedules.base import Schedule, value_at
from lightning_distill.schedules.ramp import CosineRamp
from lightning_distill.schedules.sigmoid import SigmoidRamp
from lightning_distill.schedules.warmup import LinearWarmup

__all__ = ["CosineRamp", "LinearWarmup", "Schedule", "SigmoidRamp", "value_at"]
