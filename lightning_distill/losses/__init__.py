"""Distillation terms: what a student takes over from its teacher."""

from lightning_distill.losses.base import AdaptedLoss, DistillationLoss, LayerLoss, gather_rows
from lightning_distill.losses.logit_kd import LogitKD, logit_kd

__all__ = [
    "AdaptedLoss",
    "DistillationLoss",
    "LayerLoss",
    "LogitKD",
    "gather_rows",
    "logit_kd",
]
