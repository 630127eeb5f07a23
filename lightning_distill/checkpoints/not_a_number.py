"""Weights that are lost are not written over good ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from lightning_distill.errors import NonFiniteError

_UNFILLED: Final = "norms"
"""Last part of the name of buffers in which NaN stands for "nothing yet": the history of clip rules."""


def refuse_nan(checkpoint: Mapping[str, Any], where: object) -> None:
    """Look through weights and optimizer states.

    Infinity is let pass: buffers of masks and of best values so far hold it.

    Args:
        checkpoint: As Lightning makes it.
        where: Where it would be written.

    Raises:
        NonFiniteError: If there is NaN; the first tensor is named.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, x in _floating(checkpoint):
        by_device.setdefault(x.device, []).append((name, x))
    suspects = list[tuple[str, Tensor]]()
    for found in by_device.values():
        # One pass and one wait for a device: what is finite in sum holds no NaN.
        sums = torch.stack([_sum(x) for _, x in found])
        suspects += [found[place] for place in sums.isfinite().logical_not().nonzero().flatten().tolist()]
    lost = [name for name, x in suspects if x.isnan().any()]
    if lost:
        more = f" and in {len(lost) - 1} more" if len(lost) > 1 else ""
        raise NonFiniteError(
            where=where,
            found=f"NaN in {lost[0]}{more}",
            expected="weights and optimizer states that are numbers",
            fix="nothing was written: go on from an older checkpoint with a lower learning rate or clipping",
        )


def _sum(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.sum().abs().float()
    return (x.float() if x.element_size() == 1 else x).sum(dtype=torch.float32)


def _floating(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    weights = checkpoint.get("state_dict")
    if isinstance(weights, Mapping):
        named = {key: x for key, x in weights.items() if str(key).rpartition(".")[2] != _UNFILLED}
        yield from _in(named, "state_dict")
    yield from _in(checkpoint.get("optimizer_states"), "optimizer_states")


def _in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        dense = value.layout is torch.strided and not value.is_meta
        if dense and value.numel() and (value.is_floating_point() or value.is_complex()):
            yield name, value.detach()
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _in(inner, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _in(inner, f"{name}[{place}]")
