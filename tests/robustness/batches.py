"""Batches whose every value tells which sample it is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_distill.structures import UNLABELLED, Batch, Inputs

KINDS = ("numbers", "image", "text", "dict")


def inputs_of(kind: str, size: int, generator: torch.Generator) -> Inputs:
    """Random inputs, of texts with ids that occur once."""
    if kind == "numbers":
        return torch.randn(size, 7, generator=generator)
    if kind == "image":
        return torch.randint(0, 256, (size, 1, 5, 5), generator=generator, dtype=torch.uint8)
    if kind == "text":
        mask = torch.arange(9)[None, :] < torch.randint(6, 10, (size, 1), generator=generator)
        ids = torch.arange(10, 10 + 9 * size).view(size, 9) * mask
        return {"input_ids": ids, "attention_mask": mask.long()}
    return {"values": torch.randn(size, 3, 2, generator=generator), "steps": torch.arange(size)[:, None]}


def make(kind: str, size: int = 12) -> Batch:
    """Modality "m" of that kind beside "other"; some lack one of them, one has no label."""
    generator = torch.Generator().manual_seed(3)
    present = {m: torch.ones(size, dtype=torch.bool) for m in ("m", "other")}
    present["m"][[1, 6]] = False
    present["other"][[2, 3]] = False
    target = torch.arange(size) % 3
    target[4] = UNLABELLED
    return {
        "inputs": {"m": inputs_of(kind, size, generator), "other": torch.randn(size, 2, generator=generator)},
        "present": present,
        "target": target,
        "sample_id": torch.randperm(size, generator=generator) + 5000,
        "domain": torch.zeros(size, dtype=torch.int64),
    }


def rows_of(batch: Batch, rows: Sequence[int] | Tensor) -> Batch:
    """Some samples, in that order."""

    def take(value: Any) -> Any:
        return (
            {k: take(v) for k, v in value.items()}
            if isinstance(value, dict)
            else value[torch.as_tensor(rows)]
        )

    return take(batch)  # type: ignore[no-any-return]


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a batch or of a part of one."""
    return [t for v in value.values() for t in tensors(v)] if isinstance(value, dict) else [value]


def changed(before: Batch, after: Batch, modality: str = "m") -> Tensor:
    """Which samples differ in what that modality holds or in whether it is there: bool "batch"."""
    found = before["present"][modality] != after["present"][modality]
    pairs = zip(tensors(before["inputs"][modality]), tensors(after["inputs"][modality]), strict=True)
    for a, b in pairs:
        found = found | (a != b).flatten(1).any(dim=1)
    return found
