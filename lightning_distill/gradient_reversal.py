"""Gradient reversal: two players, one backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.factor, None


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """R(x) = x in the forward pass, dR/dx = -factor * I in the backward pass.

    What comes after it minimises a loss L; what comes before it minimises -factor * L, in the same step. A
    second derivative passes through it in the same way: each passage multiplies by -factor.

    Args:
        x: Any shape.
        factor: lambda >= 0; 0 lets no gradient through.

    Returns:
        The values of x, in its shape and dtype.

    Source: Ganin et al., Domain-Adversarial Training of Neural Networks (1505.07818), section 4.2.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> y = reverse_gradient(x, 0.5)
    >>> y.square().sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([1.0, 2.0], [-1.0, -2.0])
    """
    reversed_: Tensor = _Reversal.apply(x, factor)  # type: ignore[no-untyped-call]
    return reversed_
