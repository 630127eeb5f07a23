"""Some samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_distill.errors import ConfigError
from lightning_distill.structures import Batch


def some_samples(batch: Batch, rows: Tensor) -> Batch:
    """Some samples, with all that is known of them.

    Args:
        batch: As a DataModule gives it.
        rows: int64 "samples", which ones, in their new order.
    """
    some: Batch = take(batch, rows)
    return some


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


def take(values: Any, rows: Tensor) -> Any:
    """Some rows of a tensor, or of every tensor in a dict.

    Args:
        values: As in `Batch`.
        rows: int64 "samples".
    """
    return {key: take(x, rows) for key, x in values.items()} if isinstance(values, Mapping) else values[rows]


def in_target_domain(batch: Batch) -> Tensor:
    """Which rows are of a target domain: bool "batch".

    Raises:
        ConfigError: If the batch does not tell.
    """
    if "in_target_domain" not in batch:
        raise ConfigError(
            where="a term or validator between domains",
            found="batches that do not tell which rows are of the target domain",
            expected="batches of a CrossDomainDataModule, or your own with `in_target_domain`",
            fix="set data to {class_path: CrossDomainDataModule, init_args: {source: ..., target: ...}}",
        )
    return batch["in_target_domain"]
