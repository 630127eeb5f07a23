"""Distillation terms: each a pure function and a module."""

from lightning_distill.losses.base import DistillationLoss
from lightning_distill.losses.logit_kd import LogitKD, logit_kd

__all__ = ["DistillationLoss", "LogitKD", "logit_kd"]
