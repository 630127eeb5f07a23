"""Units of ranges: what a range of 1 means, taken from the tensors that are clipped."""

from lightning_distill.units.base import Unit

__all__ = ["Unit"]
