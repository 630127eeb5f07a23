"""Balancing of gradients, between modalities and between the terms of the loss."""

from lightning_distill.gradient_balancing.agm import AGM
from lightning_distill.gradient_balancing.base import GradientBalancer, Memory, StudentView
from lightning_distill.gradient_balancing.g_blending import GBlending
from lightning_distill.gradient_balancing.mm_pareto import MMPareto
from lightning_distill.gradient_balancing.ogm_ge import OGMGE
from lightning_distill.gradient_balancing.pc_grad import PCGrad
from lightning_distill.gradient_balancing.pmr import PMR

__all__ = [
    "AGM",
    "OGMGE",
    "PMR",
    "GBlending",
    "GradientBalancer",
    "MMPareto",
    "Memory",
    "PCGrad",
    "StudentView",
]
