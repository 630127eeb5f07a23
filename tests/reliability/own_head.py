"""A fusion head of somebody else's."""

from __future__ import annotations

from lightning_distill.fusion import ConcatFusion


class Own(ConcatFusion):
    """Nothing of its own but the name."""
