"""The linear task head."""

from __future__ import annotations

from torch import nn

from lightning_distill.heads.base import TaskHead


class LinearHead(nn.Linear, TaskHead):
    """y = W x + b.

    Args:
        in_features: Width of x.
        out_features: Logits.

    >>> LinearHead(8, 3)
    LinearHead(in_features=8, out_features=3, bias=True)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
