"""Some samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_distill.structures import Batch, Inputs


def only_samples(batch: Batch, rows: Tensor, modalities: Sequence[str]) -> Batch:
    """Some samples, with what is asked of a model without a teacher.

    Args:
        batch: As a DataModule gives it.
        rows: int64 "samples", which ones, in their new order.
        modalities: Those to keep.
    """
    return {
        "inputs": {m: take(batch["inputs"][m], rows) for m in modalities},
        "present": {m: batch["present"][m][rows] for m in modalities},
        "target": batch["target"][rows],
        "sample_id": batch["sample_id"][rows],
        "domain": batch["domain"][rows],
    }


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    """Some rows of what one encoder reads.

    Args:
        inputs: As in `Batch`.
        rows: int64 "samples".
    """
    return {key: value[rows] for key, value in inputs.items()} if isinstance(inputs, dict) else inputs[rows]
