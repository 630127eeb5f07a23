"""Units of ranges: what a range of 1 means, taken from the tensors that are clipped."""

from lightning_distill.units.base import Unit
from lightning_distill.units.quantile import Quantile
from lightning_distill.units.standard_deviation import StandardDeviation

__all__ = ["Quantile", "StandardDeviation", "Unit"]
