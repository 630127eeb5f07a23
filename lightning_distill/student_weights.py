"""Weights in a safetensors file, also those that two parts of a model share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_distill.writing.disk import disk_error


def write_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Write each tensor once; its other names go into the file's metadata.

    Args:
        model: Tells which names mean the same tensor.
        state: Its state dict.
        path: Of the file.

    Raises:
        DiskError: If the disk refuses.
    """
    kept: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in _tensors(model).items():
        if name in state and first.setdefault(id(tensor), name) != name:
            others[name] = first[id(tensor)]
        elif name in state:
            x = state[name].detach()
            part = x.untyped_storage().nbytes() != x.nbytes  # safetensors takes no views
            kept[name] = x.clone(memory_format=torch.contiguous_format) if part else x.contiguous()
    try:
        safetensors.torch.save_file(kept, path, {"format": "pt", **others})
    except safetensors.SafetensorError as error:
        raise disk_error(path, str(error), sum(x.nbytes for x in kept.values())) from error


def read_weights(model: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Load what `write_weights` wrote.

    Returns:
        Names the file lacks, and those the model lacks.

    Raises:
        SafetensorError: If it is no such file.
        RuntimeError: If a shape is another one.
        OSError: If it cannot be read.
    """
    ours = _tensors(model)
    with safetensors.safe_open(path, "pt") as file:
        names = file.metadata() or {}
    found = safetensors.torch.load_file(path)
    shared = {name: found[kept] for name, kept in names.items() if name in ours and kept in found}
    gaps, unknown = model.load_state_dict({**shared, **found}, strict=False)
    loaded = {id(ours[name]) for name in (*found, *shared) if name in ours}
    missing = [name for name in gaps if id(ours.get(name)) not in loaded]  # else it has another name too
    return sorted(missing), sorted(unknown)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; a shared one under each of its names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict([*parameters, *model.named_buffers(remove_duplicate=False)])
