"""Checkpoints that are whole or not there: written so that no crash can leave half of one, checked when read."""

from lightning_distill.checkpoints.file import Header, read_checkpoint, read_header, write_checkpoint
from lightning_distill.checkpoints.newest import Newest, newest_good
from lightning_distill.checkpoints.verified_io import VerifiedCheckpointIO

__all__ = [
    "Header",
    "Newest",
    "VerifiedCheckpointIO",
    "newest_good",
    "read_checkpoint",
    "read_header",
    "write_checkpoint",
]
