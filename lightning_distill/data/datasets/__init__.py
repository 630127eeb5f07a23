"""Data sets: one a file."""

from lightning_distill.data.datasets.class_paired import Bank, ClassPairedSource
from lightning_distill.data.datasets.digits import Digits
from lightning_distill.data.datasets.fsdd import FreeSpokenDigits, Recordings, read_fsdd

__all__ = ["Bank", "ClassPairedSource", "Digits", "FreeSpokenDigits", "Recordings", "read_fsdd"]
