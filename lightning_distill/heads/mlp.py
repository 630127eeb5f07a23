"""A task head with one hidden layer."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_distill.heads.base import TaskHead
from lightning_distill.sizes import check_dropout, check_sizes


class MLPHead(TaskHead):
    """y = W_2 dropout(gelu(W_1 x + b_1)) + b_2.

    Behind a fusion that only adds up what modalities say, such as `SumFusion` or `ConcatFusion`, it is what
    lets them interact: with a linear task head, what takes two modalities to tell cannot be learned.

    Args:
        in_features: Width of x.
        out_features: Logits.
        hidden_dim: Width of the hidden layer.
        dropout: Of the hidden layer.

    Raises:
        ConfigError: If a width is below 1, or the dropout is no probability below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden_dim: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_sizes("MLPHead", {"hidden_dim": hidden_dim})
        check_dropout("MLPHead", dropout)
        self.hidden = nn.Linear(in_features, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_dim, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits "batch outputs" of x, "batch dim"."""
        return self.output(self.dropout(nn.functional.gelu(self.hidden(x))))
