"""Drops what Lightning says in vain: advertisements, and warnings about what is meant to be so."""

from __future__ import annotations

import logging
import warnings
from typing import Final

_TIPS: Final = (
    "💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]",
    "💡 Tip: For seamless cloud uploads and versioning, try installing [litmodels]",
)
_EXPECTED: Final = (
    r"Checkpoint directory .* exists and is not empty\.",  # that of a resumed run
    r"The dirpath has changed from",  # so it has: a folder was moved, or a new run starts from a checkpoint
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",  # test needs none
    r"You have overridden `on_before_batch_transfer` in `LightningModule`",  # ours is the one that is meant
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own
)


def silence_tips() -> None:
    """Drop Lightning's advertisements, which have no switch, and warnings about what is meant to be so."""
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if not any(isinstance(f, _NoTips) for f in rank_zero.filters):
        rank_zero.addFilter(_NoTips())
    silence_warnings()


def silence_warnings() -> None:
    """Drop Lightning's warnings about what is meant to be so."""
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message)


class _NoTips(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_TIPS)
