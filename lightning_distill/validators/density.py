"""How densely the student's answers in the target domain lie together."""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_distill.errors import ConfigError
from lightning_distill.validators.base import Answers, TargetValidator

_BLOCK: Final = 1024
"""Rows that are compared with all rows at a time."""


def soft_neighbourhood_density(features: Tensor, temperature: float = 0.05) -> Tensor:
    """mean_i H(q_i), q_ij = softmax_{j != i}(cos(f_i, f_j) / T), H(q) = -sum_j q_j log q_j in nats.

    Args:
        features: f, "rows dim", of the target; the paper takes softmax(logits).
        temperature: T > 0.

    Returns:
        0-d tensor in [0, log(rows - 1)], at least float32; 0 below two rows. It grows with the number of
        rows, so compare values of the same rows. Memory is that of about a thousand rows against all rows.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft
    Neighborhood Density (2108.10860), section 3. The authors' code does not leave the row itself out but
    gives it a cosine of -1, and adds 1e-5 inside the logarithm, which takes up to about rows * 1e-5 off the
    value.

    >>> round(soft_neighbourhood_density(torch.ones(5, 3)).item(), 4)  # log 4: all are neighbours of all
    1.3863
    """
    if len(features) < 2:
        return features.sum() * 0
    f = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)
    total = f.new_zeros(())
    for first in range(0, len(f), _BLOCK):
        some = f[first : first + _BLOCK]
        near = some @ f.T / temperature
        near.diagonal(first).fill_(-torch.inf)
        total = total + torch.special.entr(near.softmax(dim=1)).sum()
    return total / len(f)


class SoftNeighbourhoodDensity(TargetValidator):
    """`soft_neighbourhood_density` of the student's probabilities for the target rows.

    High where answers form few tight groups, as they should where each class is one. It fails where groups
    merge: a student that gives all rows the same answer, sure or not, has the best value there is, so it
    ranks models that have learned the source, not an untrained one. Its time grows with the square of the
    number of rows.

    Args:
        temperature: T > 0. A low one looks at the nearest rows alone.

    Raises:
        ConfigError: If the temperature is not above 0.

    Source: as `soft_neighbourhood_density`.
    """

    name: ClassVar[str] = "soft_neighbourhood_density"

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(
                where="SoftNeighbourhoodDensity.temperature",
                found=temperature,
                expected="a number above 0",
                fix="leave it at 0.05, as in the paper",
            )
        self.temperature = temperature

    def score(self, source: Answers, target: Answers) -> Tensor:
        """In nats."""
        return soft_neighbourhood_density(target.logits.softmax(dim=1), self.temperature)
