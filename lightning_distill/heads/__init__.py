"""Task heads: the fused feature in, logits out."""

from lightning_distill.heads.base import TaskHead
from lightning_distill.heads.linear import LinearHead
from lightning_distill.heads.mlp import MLPHead

__all__ = ["LinearHead", "MLPHead", "TaskHead"]
