"""MMPareto: each modality learns on its own too, without pulling its encoder away from the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.gradient_balancing.base import (
    GradientBalancer,
    StudentView,
    inner_products,
    two_or_more,
)
from lightning_distill.gradients import Gradients

_OPPOSED: Final = 1e-6
"""Below this squared sine of the angle, two conflicting gradients leave no direction that serves both."""


def integration_weights(products: Tensor, gamma: float) -> Tensor:
    """What the two gradients of an encoder are multiplied with: (w_m, w_u), h = w_m * g_m + w_u * g_u.

    Without conflict, <g_m, g_u> >= 0, both are gamma. Else h has the direction of the shortest vector
    a * g_m + (1 - a) * g_u, a in [0, 1], which serves both, and the length gamma * |g_m + g_u|. Where the two
    are opposed to each other, h is that shortest vector times 2 * gamma, so next to 0. Where g_u is 0, w_m
    is 1.

    Args:
        products: <g_m, g_m>, <g_m, g_u>; <g_u, g_m>, <g_u, g_u>: "2 2".
        gamma: Positive.

    Returns:
        "2".

    Source: Wei and Hu, MMPareto (2405.17730), section 3.

    >>> integration_weights(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), 1.5).tolist()
    [1.5, 1.5]
    """
    mm, mu, uu = products[0, 0], products[0, 1], products[1, 1]
    both = mm + uu
    distance = (both - 2 * mu).clamp(min=torch.finfo(mm.dtype).tiny)
    share = ((uu - mu) / distance).clamp(0, 1)
    area = mm * uu - mu * mu
    opposed = area <= _OPPOSED * mm * uu
    shortest = torch.where(opposed, 1.0, 4 * area / distance)
    stretch = torch.where(opposed, 1.0, ((both + 2 * mu).clamp(min=0) / shortest).sqrt())
    pareto = 2 * gamma * stretch * torch.stack([share, 1 - share])
    weights = torch.where(mu >= 0, gamma, pareto)
    return torch.where(uu == 0, torch.ones_like(weights), weights)


class MMPareto(GradientBalancer):
    """loss = terms + sum_m task(answer from m alone); g <- w_m * g_m + w_u * g_u on the encoder of each m.

    g_u is the gradient of the modality's own term, which has weight 1, g_m that of all others together,
    distillation included; the weights are `integration_weights`, found for each encoder as a whole. Fusion,
    head and adaptors keep the plain sum. A modality that no labelled sample of the step has is left alone.
    Costs, a modality, one pass through fusion and head, and one backward pass.

    Args:
        gamma: How much longer gradients become, positive; more than 1 adds to the noise of SGD, which is to
            help generalisation. Adam does not see it.

    Raises:
        ConfigError: If gamma is not positive; at the first batch, if there is only one modality.

    Source: Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance (2405.17730),
    section 3; gamma is 1.5 in the authors' code. There each modality has a head of its own; here the answer
    from one modality is that of the student's head with the others absent. Their code finds the length tensor
    by tensor, and has no case for gradients that are opposed to each other, which divides by 0.
    """

    per_term_gradients = True

    def __init__(self, gamma: float = 1.5) -> None:
        super().__init__()
        if not (math.isfinite(gamma) and gamma > 0):
            raise ConfigError(
                where="MMPareto.gamma", found=gamma, expected="a positive number", fix="try 1.5"
            )
        self.gamma = gamma
        self._modalities: tuple[str, ...] = ()

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms, and "unimodal/<modality>" for each modality."""
        self._modalities = two_or_more(view, "MMPareto")
        own = {
            f"unimodal/{m}": view.task_loss(view.answer_from((m,)), view.present[m]) for m in self._modalities
        }
        return {**weighted, **own}

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Join the two gradients of each encoder.

        Returns:
            "cosine/<modality>": of the angle between them; "pareto/<modality>": w_u / (w_m + w_u), 0.5
            without conflict.
        """
        place, names = {name: i for i, name in enumerate(gradients.names)}, list(by_term)
        measured = {}
        for m in self._modalities:
            part = gradients.under(f"encoders.{m}")
            if not len(part):
                continue
            at, own = [place[name] for name in part.names], names.index(f"unimodal/{m}")
            every = inner_products(part, [[by_term[name][i] for i in at] for name in names])
            products = _two(every, own)
            weights = integration_weights(products, self.gamma)
            for grad, i in zip(part.local, at, strict=True):
                alone = by_term[names[own]][i]
                grad.mul_(weights[0].to(grad))
                if alone is not None:
                    grad.addcmul_(alone, (weights[1] - weights[0]).to(grad))
            sizes = (products[0, 0] * products[1, 1]).sqrt()
            measured[f"cosine/{m}"] = torch.where(sizes > 0, products[0, 1] / sizes, 0.0)
            measured[f"pareto/{m}"] = weights[1] / weights.sum()
        return measured

    def extra_repr(self) -> str:
        """Show the setting."""
        return f"gamma={self.gamma}"


def _two(products: Tensor, own: int) -> Tensor:
    """Inner products of (the sum of all but one) and that one: "2 2"."""
    # Writing a number into a place would make an accelerator wait.
    rest = (torch.arange(len(products), device=products.device) != own).to(products)
    cross = products[own] @ rest
    return torch.stack([rest @ products @ rest, cross, cross, products[own, own]]).view(2, 2)
