"""What clipping does, measured on the side: cheap, and without asking any rule."""

from lightning_distill.telemetry.clip_watch import ClipWatch
from lightning_distill.telemetry.gradients import GradientTelemetry, group_of
from lightning_distill.telemetry.term_gradients import term_gradients

__all__ = ["ClipWatch", "GradientTelemetry", "group_of", "term_gradients"]
