"""Gradients by name, as rules, balancers and telemetry see them."""

from lightning_distill.gradients.collection import Gradients
from lightning_distill.gradients.finite import counted, is_finite, non_finite
from lightning_distill.gradients.lookup import Parameters, gradients_of

__all__ = ["Gradients", "Parameters", "counted", "gradients_of", "is_finite", "non_finite"]
