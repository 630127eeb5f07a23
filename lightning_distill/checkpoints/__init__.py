"""Checkpoints that are whole or not there: no crash can leave half of one, and each is checked when read."""

from lightning_distill.checkpoints.file import Header, read_checkpoint, read_header, write_checkpoint
from lightning_distill.checkpoints.newest import Newest, newest_good
from lightning_distill.checkpoints.plain import plain
from lightning_distill.checkpoints.replacing import PREVIOUS, sweep
from lightning_distill.checkpoints.verified_io import VerifiedCheckpointIO

__all__ = [
    "PREVIOUS",
    "Header",
    "Newest",
    "VerifiedCheckpointIO",
    "newest_good",
    "plain",
    "read_checkpoint",
    "read_header",
    "sweep",
    "write_checkpoint",
]
