"""Transformer layers over tokens, some of which are not there."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_distill.absence import all_there
from lightning_distill.errors import ConfigError
from lightning_distill.sizes import check_dropout, check_sizes


def attendable(mask: Tensor) -> Tensor | None:
    """What may be attended to, as `scaled_dot_product_attention` takes it; None where that is everything.

    In a row without any token everything may be: a softmax over nothing is NaN, forward or backward. What
    comes of such a row means nothing, so whoever attends to it puts the neutral element in its place.

    Args:
        mask: bool "batch tokens", False where there is none.

    Returns:
        bool "batch 1 1 tokens".

    >>> import torch
    >>> attendable(torch.tensor([[True, False], [False, False]])).tolist()
    [[[[True, False]]], [[[True, True]]]]
    """
    if all_there(mask):
        return None
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


def check_layers(
    head: str, width: tuple[str, int], num_heads: int, depths: dict[str, int], dropout: float
) -> None:
    """The numbers make transformer layers.

    Args:
        head: Class that is made of them.
        width: Name and value of the option for the width of its tokens.
        num_heads: Attention heads.
        depths: Name -> number of layers.
        dropout: Probability.

    Raises:
        ConfigError: If they do not.
    """
    check_heads(head, width, num_heads)
    check_sizes(head, depths)
    check_dropout(head, dropout)


def check_heads(head: str, width: tuple[str, int], num_heads: int) -> None:
    """The attention heads divide the width.

    Args:
        head: Class that is made of them.
        width: Name and value of the option for the width of its tokens.
        num_heads: Attention heads.

    Raises:
        ConfigError: If they do not.
    """
    name, size = width
    if size < 1 or num_heads < 1 or size % num_heads:
        raise ConfigError(
            where=f"{head}.num_heads",
            found=f"num_heads = {num_heads}, {name} = {size}",
            expected=f"both positive, and num_heads a divisor of {name}",
            fix=f"choose {name} as a multiple of num_heads",
        )


class TransformerLayer(nn.Module):
    """A pre-norm layer, without what it attends to: y = x + W_o A(LN(x));  z = y + W_2 gelu(W_1 LN(y)).

    The hidden layer is four times as wide. Dropout acts on the attention weights and on each term that is
    added to x or y.

    Args:
        width: Of the tokens.
        num_heads: Attention heads; a divisor of `width`.
        dropout: Probability, in training only.
        projections: How many of query, key and value it makes of its own tokens.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, projections: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projections = projections
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, projections * width)
        self.output = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """For each projection "batch tokens heads dim"."""
        return self.project(self.norm(x)).unflatten(2, (self.projections, self.num_heads, -1)).unbind(dim=2)

    def _through(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """All that follows the projections."""
        dropout = self.dropout if self.training else 0.0
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        y = x + F.dropout(self.output(attended.transpose(1, 2).flatten(2)), dropout)
        return y + F.dropout(self.reduce(F.gelu(self.expand(self.hidden_norm(y)))), dropout)


class SelfAttentionLayer(TransformerLayer):
    """Pre-norm transformer layer of self-attention, A = softmax(Q K^T / sqrt(d)) V in each head.

    Args:
        width: Of the tokens.
        num_heads: Attention heads; a divisor of `width`.
        dropout: Probability, in training only.

    Source: Vaswani et al., Attention Is All You Need (1706.03762), sections 3.1 to 3.3, with the layer
    normalisation before each part, as in vision transformers, and gelu in the place of relu.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, num_heads, dropout, projections=3)

    def forward(self, x: Tensor, allowed: Tensor | None, first: int | None = None) -> Tensor:
        """Attend.

        Args:
            x: "batch tokens width".
            allowed: Of `attendable`.
            first: How many of the tokens are needed behind this layer; None for all.

        Returns:
            The first tokens, "batch first width".
        """
        query, key, value = self._projected(x)
        return self._through(x[:, :first], query[:, :first], key, value, allowed)


class CrossAttentionLayer(TransformerLayer):
    """The same where keys and values are another sequence's, projected by whoever calls it.

    Args:
        width: Of the tokens.
        num_heads: Attention heads; a divisor of `width`.
        dropout: Probability, in training only.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, num_heads, dropout, projections=1)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """Attend to the other sequence.

        Args:
            x: "batch tokens width".
            key: "batch others heads dim".
            value: The same.
            allowed: Of `attendable`, for the others.

        Returns:
            "batch tokens width".
        """
        (query,) = self._projected(x)
        return self._through(x, query, key, value, allowed)
