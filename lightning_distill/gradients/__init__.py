"""Gradients by name, as rules, balancers and telemetry see them."""

from lightning_distill.gradients.collection import Gradients
from lightning_distill.gradients.lookup import Parameters, gradients_of

__all__ = ["Gradients", "Parameters", "gradients_of"]
