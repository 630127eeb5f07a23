"""Looking for entries that are NaN or infinite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_distill.gradients.collection import Gradients


def non_finite(gradients: Gradients) -> Tensor:
    """Which whole gradients have entries that are not finite; an accelerator is not waited for.

    Args:
        gradients: At least one.

    Returns:
        bool "tensors", on the device of the gradients.
    """
    if gradients.device.type != "cpu":
        largest = torch._foreach_norm([_filled(grad) for grad in gradients.local], math.inf)
        flags = ~torch.stack([x.to(gradients.device) for x in largest]).isfinite()
    elif not gradients.splits and all(_is_surely_finite(grad) for grad in gradients.local):
        return torch.zeros(len(gradients), dtype=torch.bool)
    else:
        flags = torch.tensor([not is_finite(grad) for grad in gradients.local])
    return gradients.total(flags.float(), largest=True) > 0


def is_finite(x: Tensor) -> bool:
    """Whether every entry is; waits for the device. One pass over memory, where nothing is very large.

    Args:
        x: Of floating-point numbers, not split over processes.

    >>> is_finite(torch.tensor([3e38, -3e38])), is_finite(torch.tensor([1.0, torch.nan]))
    (True, False)
    """
    return _is_surely_finite(x) or bool(torch.stack(_filled(x).aminmax()).isfinite().all())


def counted(name: str, x: Tensor) -> str:
    """A tensor that is not finite, in words.

    >>> counted("head.bias", torch.tensor([1.0, torch.nan, torch.inf]))
    "'head.bias' (1 NaN, 1 infinite of 3)"
    """
    return f"{name!r} ({x.isnan().sum()} NaN, {x.isinf().sum()} infinite of {x.numel()})"


def _is_surely_finite(x: Tensor) -> bool:
    """A quick look: a finite sum of squares has finite entries; one that is not can come from large ones."""
    if x.is_contiguous() and x.dtype in (torch.float32, torch.float64):
        return math.isfinite(torch.dot(x.view(-1), x.view(-1)).item())
    return math.isfinite(torch.linalg.vector_norm(x).item())


def _filled(x: Tensor) -> Tensor:
    return x if x.numel() else x.new_zeros(1)
