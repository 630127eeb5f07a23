"""How much each weighted term pulls at the fused feature, and whether it pulls against the task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def term_gradients(
    terms: Mapping[str, Tensor], x: Tensor, scale: float | Tensor = 1.0, task: str = "task"
) -> dict[str, Tensor]:
    """g_t = d(term_t) / dx; share_t = |g_t| / sum_u |g_u|; cosine_t = <g_t, g_task> / (|g_t| |g_task|).

    A cosine below 0 is a conflict: at the fused feature, a step down this term is one up the task's. Costs
    one backward pass from each term to x, which is short; neither `.grad` of a parameter nor the graph is
    touched. Under data parallelism it is about this process's batch.

    Args:
        terms: Name -> 0-d weighted term, with its graph.
        x: Fused feature that the terms were computed from, "batch dim".
        scale: Multiplies terms before backward, as a GradScaler's scale does, so that gradients do not
            underflow in float16. It changes no result else.
        task: Name of the task's own term.

    Returns:
        `gradient_share/<term>` of all terms: 0 of a term that does not reach x, and of all where no term
        does. `gradient_cosine/<term>` of all others than the task's that reach x, where the task's does too;
        0 where a gradient is 0. 0-d tensors of float32, or float64 where x is.

    Source: none; conflict is as in Yu et al., Gradient Surgery (2001.06782), definition 1, at the fused
    feature instead of the parameters.

    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> found = term_gradients({"task": 3 * x.sum(), "hint": -x.sum()}, x)
    >>> {name: round(value.item(), 3) for name, value in found.items()}
    {'gradient_share/task': 0.75, 'gradient_share/hint': 0.25, 'gradient_cosine/hint': -1.0}
    """
    found = {name: _gradient(term, x, scale) for name, term in terms.items()}
    reached = {name: grad for name, grad in found.items() if grad is not None}
    nothing = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    norms = {name: torch.linalg.vector_norm(grad) for name, grad in reached.items()}
    total = sum(norms.values(), nothing)
    report = {f"gradient_share/{name}": norms.get(name, nothing) / _or_one(total) for name in terms}
    units = {name: grad / _or_one(norms[name]) for name, grad in reached.items()}
    for name in units:
        if name != task and task in units:
            report[f"gradient_cosine/{name}"] = torch.dot(units[name], units[task]).clamp(-1, 1)
    return report


def _gradient(term: Tensor, x: Tensor, scale: float | Tensor) -> Tensor | None:
    """Flat, in at least float32; None where the term does not depend on x."""
    if not (term.requires_grad and x.requires_grad):
        return None
    (grad,) = torch.autograd.grad(term * scale, x, retain_graph=True, allow_unused=True)
    return None if grad is None else grad.flatten().to(torch.promote_types(grad.dtype, torch.float32))


def _or_one(norm: Tensor) -> Tensor:
    return torch.where(norm == 0, 1.0, norm)
