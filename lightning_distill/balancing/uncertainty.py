"""Balancing by learned uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_distill.balancing.base import TermBalancer


class UncertaintyBalancer(TermBalancer):
    """sum_k exp(-s_k) * L_k / 2 + s_k / 2, where s_k = log sigma_k^2 is learned, from 0 on.

    At the optimum exp(s_k) = L_k, so each term counts by its own size. For terms that are 0 at the optimum
    the factor grows without end: watch `balance/<term>` in the log.

    Args:
        names: Of the terms.

    Source: Kendall et al., Multi-Task Learning Using Uncertainty (1705.07115), equation 7, which has this
    form for regression terms; for classification the paper drops the 1/2, a constant factor. The logarithm of
    the variance is learned, as the paper advises in section 3.2.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.log_variance = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, terms: Mapping[str, Tensor], norms: Mapping[str, Tensor] | None = None) -> Tensor:
        """The sum over the terms that are there."""
        s = self.log_variance[[self.names.index(name) for name in terms]]
        return ((torch.exp(-s) * torch.stack(list(terms.values())) + s) / 2).sum()

    def factors(self) -> Mapping[str, Tensor]:
        """exp(-s) / 2."""
        return dict(zip(self.names, (torch.exp(-self.log_variance.detach()) / 2).unbind(), strict=True))
