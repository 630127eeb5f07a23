"""Looking up the gradients of what one optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_distill.errors import ConfigError
from lightning_distill.gradients.collection import Gradients

Parameters = Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]]
"""As torch's optimizers take them: `parameters()` or `named_parameters()`."""


def gradients_of(
    parameters: Parameters | Mapping[str, nn.Parameter],
    step: int = 0,
    epoch: int = 0,
    fresh: bool = True,
    split_over: Any = None,
) -> Gradients:
    """Look at the gradients there are; a parameter given twice counts once.

    Args:
        parameters: What one optimizer steps.
        step: Optimizer steps taken.
        epoch: Epochs completed.
        fresh: Whether this step is seen for the first time.
        split_over: Process group over which plain tensors are split, as under FSDP1; FSDP2's tell themselves.
            FSDP1 gives no gradient to a parameter of which this process has no entry: it counts as one of
            zeros, so that all processes speak of the same gradients in the same order.

    Raises:
        ConfigError: If a gradient is sparse or complex.
    """
    seen: set[int] = set()
    names: list[str] = []
    without: list[str] = []
    owners, local = list[nn.Parameter](), list[Any]()
    split: dict[Any, list[int]] = {}
    for name, parameter in _named(parameters):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        grad = parameter.grad
        if grad is None and split_over is not None and parameter.requires_grad:
            grad = torch.zeros_like(parameter.detach())
        if grad is None:
            without.append(name)
            continue
        # Most are plain tensors, and asking one for what it has not costs as much as clipping a small one.
        plain = type(grad) is Tensor
        _refuse_unusual(name, grad, () if plain else getattr(grad, "placements", ()))
        for group in (() if plain else _groups(grad)) or (() if split_over is None else (split_over,)):
            split.setdefault(group, []).append(len(names))
        names.append(name)
        owners.append(parameter)
        local.append(grad.to_local() if not plain and hasattr(grad, "to_local") else grad)
    splits = tuple((group, tuple(at)) for group, at in split.items())
    where = (step, epoch, fresh, splits, tuple(without))
    return Gradients(tuple(names), tuple(owners), tuple(local), *where)


def _named(parameters: Any) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(parameters, Mapping):
        yield from parameters.items()
        return
    for i, given in enumerate(parameters):
        yield given if isinstance(given, tuple) else (str(i), given)


def _refuse_unusual(name: str, grad: Any, placements: Sequence[Any]) -> None:
    kind = "complex" if grad.is_complex() else "sparse" if grad.layout is not torch.strided else ""
    if kind or placements:
        fix = "set sparse=False on the embedding" if kind == "sparse" else "leave it out of the optimizer"
        if any(placement.is_partial() for placement in placements):
            kind, fix = "partial", "add it up over the processes first: grad.redistribute(placements=...)"
    if kind:
        raise ConfigError(
            where=f"gradient of {name!r}",
            found=f"a {kind} gradient",
            expected="dense gradients of real numbers, added up over the processes",
            fix=fix,
        )


def _groups(grad: Any) -> Sequence[Any]:
    """The process groups a DTensor is split over; none for a plain or a replicated tensor."""
    if not hasattr(grad, "device_mesh"):
        return ()
    mesh = grad.device_mesh
    return [mesh.get_group(i) for i, placement in enumerate(grad.placements) if not placement.is_replicate()]
