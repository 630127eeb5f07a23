"""Balancing by the size of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_distill.balancing.base import TermBalancer
from lightning_distill.errors import ConfigError


class GradNormBalancer(TermBalancer):
    """sum_k f_k * L_k, where the factors f_k bring the terms' gradients to a common size.

    With G_k = f_k * |gradient of L_k|, its mean G over the terms, and r_k how much slower than the mean term
    k has fallen (L_k / L_k at the start, over its mean), each step moves f_k down the gradient of
    |G_k - G * r_k^alpha| and then rescales the factors to a mean of 1. Costs one backward pass a term.

    Args:
        names: Of the terms.
        alpha: How strongly slow terms are favoured; 0 makes all gradients the same size.
        learning_rate: Of the factors.

    Raises:
        ConfigError: If alpha or the learning rate is negative.

    Source: Chen et al., GradNorm (1711.02257), section 3 and algorithm 1. The paper takes the gradient on
    the last shared layer; here it is all of the student, since terms on inner layers do not reach the last
    one. The factors move by plain gradient descent, as G_k / f_k is known, and need no optimizer.
    """

    needs_gradients = True
    factor: Tensor
    first: Tensor

    def __init__(self, names: Sequence[str], alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        super().__init__(names)
        if alpha < 0 or learning_rate < 0:
            raise ConfigError(
                where="GradNormBalancer",
                found=f"alpha {alpha} and learning_rate {learning_rate}",
                expected="numbers of 0 or more",
                fix="try alpha 1.5 and learning_rate 0.025",
            )
        self.alpha, self.learning_rate = alpha, learning_rate
        self.register_buffer("factor", torch.ones(len(self.names)))
        self.register_buffer("first", torch.zeros(len(self.names)))

    def forward(self, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor] | None = None) -> Tensor:
        """The sum over the terms that are there; with `norms`, the factors move first."""
        at = torch.tensor([self.names.index(name) for name in terms], device=self.factor.device)
        values = torch.stack(list(terms.values()))
        if norms is not None:
            self._move(at, values.detach(), torch.stack([norms[name] for name in terms]))
        return (self.factor[at] * values).sum()

    @torch.no_grad()
    def _move(self, at: Tensor, values: Tensor, norms: Tensor) -> None:
        # A term's first value stays the one it is compared with, whenever it appears.
        first = torch.where(self.first[at] > 0, self.first[at], values)
        self.first[at] = first
        tiny = torch.finfo(norms.dtype).tiny
        ratio = values / first.clamp(min=tiny)
        rate = ratio / ratio.mean().clamp(min=tiny)
        sizes = self.factor[at] * norms
        beyond = sizes - sizes.mean() * rate**self.alpha
        moved = self.factor[at] - self.learning_rate * beyond.sign() * norms
        # A step that is large for its factor must not turn the term's sign.
        moved = torch.maximum(moved, 0.1 * self.factor[at])
        self.factor[at] = moved * (len(at) / moved.sum())

    def factors(self) -> Mapping[str, Tensor]:
        """The factors."""
        return dict(zip(self.names, self.factor.unbind(), strict=True))
