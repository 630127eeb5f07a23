"""Automatic balancing of terms."""

from lightning_distill.balancing.base import TermBalancer
from lightning_distill.balancing.gradient_norm import GradNormBalancer
from lightning_distill.balancing.uncertainty import UncertaintyBalancer

__all__ = ["GradNormBalancer", "TermBalancer", "UncertaintyBalancer"]
