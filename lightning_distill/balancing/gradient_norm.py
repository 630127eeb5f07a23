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
    k has fallen (L_k / L_k at the start, over its mean), each step does

        f_k <- f_k * (G * r_k^alpha / G_k)^rate,    then f <- f / mean(f)

    A term without gradient keeps its factor. Costs one backward pass a term and step.

    Args:
        names: Of the terms.
        alpha: How strongly slow terms are favoured; 0 makes all gradients the same size.
        rate: How fast the factors follow, above 0 and at most 1.

    Raises:
        ConfigError: If alpha is negative, or the rate is outside (0, 1].

    Source: Chen et al., GradNorm (1711.02257), section 3 and algorithm 1. The aim G_k = G * r_k^alpha is the
    paper's; it moves the factors by Adam on the absolute difference, here the logarithms of the factors go
    straight towards it, so that they stay positive and their speed does not depend on the terms' scale. The
    paper takes the gradient on the last shared layer; here it is all of the student, since terms on inner
    layers do not reach the last one.
    """

    needs_gradients = True
    factor: Tensor
    first: Tensor

    def __init__(self, names: Sequence[str], alpha: float = 1.5, rate: float = 0.05) -> None:
        super().__init__(names)
        if alpha < 0 or not 0 < rate <= 1:
            raise ConfigError(
                where="GradNormBalancer",
                found=f"alpha {alpha} and rate {rate}",
                expected="alpha of 0 or more, and a rate above 0 and at most 1",
                fix="try alpha 1.5 and rate 0.05",
            )
        self.alpha, self.rate = alpha, rate
        self.register_buffer("factor", torch.ones(len(self.names)))
        self.register_buffer("first", torch.zeros(len(self.names)))

    def forward(self, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor] | None = None) -> Tensor:
        """The sum over the terms that are there; with `norms`, the factors move first."""
        at = torch.tensor([self.names.index(name) for name in terms], device=self.factor.device)
        values = torch.stack(list(terms.values()))
        if norms is not None:
            self._move(at, values.detach().to(self.factor), torch.stack([norms[n] for n in terms]))
        # A copy: the next step changes the buffer before a late backward pass may have read it.
        return (self.factor[at].to(values) * values).sum()

    @torch.no_grad()
    def _move(self, at: Tensor, values: Tensor, norms: Tensor) -> None:
        # A term's first value stays the one it is compared with, whenever it appears.
        first = torch.where(self.first[at] > 0, self.first[at], values)
        tiny = torch.finfo(first.dtype).tiny
        ratio = values / first.clamp(min=tiny)
        slowness = ratio / ratio.mean().clamp(min=tiny)
        sizes = self.factor[at] * norms.to(first)
        aim = sizes.mean() * slowness**self.alpha
        known = (sizes > 0) & (aim > 0)
        moved = self.factor[at] * torch.where(known, aim / sizes.clamp(min=tiny), 1.0) ** self.rate
        self.first[at] = first
        self.factor[at] = moved / moved.mean()

    def factors(self) -> Mapping[str, Tensor]:
        """The factors."""
        return dict(zip(self.names, self.factor.unbind(), strict=True))
