"""PCGrad: terms of the loss no longer undo each other's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_distill.gradient_balancing.base import GradientBalancer, StudentView, inner_products
from lightning_distill.gradients import Gradients
from lightning_distill.randomness import generator


def surgery_weights(products: Tensor, order: Tensor) -> Tensor:
    """The weights w of sum_k w_k * g_k = sum_i g_i', where each g_i' is g_i without its conflicts.

    g_i' starts as g_i. For each other j in turn, where <g_i', g_j> < 0:

        g_i' <- g_i' - <g_i', g_j> / |g_j|^2 * g_j

    As each g_i' is a sum of the g_k, the inner products of these are all that is needed.

    Args:
        products: <g_i, g_j>, "terms terms".
        order: int64 "terms terms-1": for each i the others, in the order in which they are looked at.

    Returns:
        "terms"; all 1 where no two are in conflict.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning (2001.06782), algorithm 1.

    >>> surgery_weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]), torch.tensor([[1], [0]])).tolist()
    [1.5, 1.5]
    """
    shares = torch.eye(len(products), dtype=products.dtype, device=products.device)
    squares = products.diagonal().clamp(min=torch.finfo(products.dtype).tiny)
    for other in order.unbind(dim=1):
        along = (shares @ products).gather(1, other[:, None])
        shares = shares.scatter_add(1, other[:, None], -along.clamp(max=0) / squares[other][:, None])
    return shares.sum(dim=0)


class PCGrad(GradientBalancer):
    """g <- sum_k w_k * g_k on everything that is trained, g_k a term's gradient, w as in `surgery_weights`.

    The order in which a term meets the others is random, a function of (seed, step), and the same on all
    processes. With one term, or without conflict, nothing changes. Costs one backward pass a term.

    Source: Yu et al. (2001.06782), algorithm 1. The authors' code drops the result of its shuffle, so that
    the order is that of the terms; here it is random for each term, as in the paper.
    """

    per_term_gradients = True

    def __init__(self) -> None:
        super().__init__()
        self._seed = 0

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The terms as they are."""
        self._seed = view.seed
        return dict(weighted)

    def balance(
        self, gradients: Gradients, by_term: Mapping[str, Sequence[Tensor | None]]
    ) -> dict[str, Tensor]:
        """Take out what is in conflict.

        Returns:
            "surgery/<term>": w; "conflicts": the share of pairs of terms that are in conflict.
        """
        names = tuple(by_term)
        if len(names) < 2 or not len(gradients):
            return {}
        products = inner_products(gradients, list(by_term.values()))
        order = _order(len(names), self._seed, gradients.step)
        weights = surgery_weights(products, order.to(products.device, non_blocking=True))
        for grad, pieces in zip(gradients.local, zip(*by_term.values(), strict=True), strict=True):
            for piece, weight in zip(pieces, (weights - 1).unbind(), strict=True):
                if piece is not None:
                    grad.addcmul_(piece, weight.to(grad))
        conflicts = (products < 0).sum() / (len(names) * (len(names) - 1))
        return {f"surgery/{name}": weights[k] for k, name in enumerate(names)} | {"conflicts": conflicts}


def _order(count: int, seed: int, step: int) -> Tensor:
    """For each of them the others, shuffled: int64 "count count-1"."""
    draws = generator(seed, "PCGrad", step)
    return torch.from_numpy(
        np.stack([draws.permutation(np.delete(np.arange(count), i)) for i in range(count)])
    )
