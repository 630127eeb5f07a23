"""Balancing of gradients, between modalities and between the terms of the loss."""

from lightning_distill.gradient_balancing.base import GradientBalancer, StudentView

__all__ = ["GradientBalancer", "StudentView"]
