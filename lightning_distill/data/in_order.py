"""Samples one after the other, as evaluation sees them, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from lightning.fabric.utilities import move_data_to_device

from lightning_distill.data.bad_samples import BadSampleLog
from lightning_distill.data.base import MultimodalDataModule
from lightning_distill.data.loader import batch_loader
from lightning_distill.data.reading import Reading
from lightning_distill.data.sampling import BatchSampler
from lightning_distill.structures import Batch


def batches_in_order(
    data: MultimodalDataModule, splits: Sequence[str], device: torch.device, substitute: bool = False
) -> Iterator[Batch]:
    """Every sample of these splits; the i-th of a split is that of row `data.rows(split)[i]`.

    Args:
        data: Where they come from.
        splits: Of train, val, test.
        device: Where the batches go.
        substitute: Put another sample, without a label, in the place of one that cannot be read.
    """
    for processor in (*data.processors.values(), *data.teacher_processors.values()):
        processor.check()
    for split in splits:
        # "val" whatever the split, for "train" would augment.
        reading = Reading(data.processors, data.teacher_processors, data.seed, "val", substitute=substitute)
        dataset = data.make_dataset(data.rows(split), reading)
        if len(dataset):
            order = BatchSampler(len(dataset), data.batch_size, data.seed, False)
            for batch in batch_loader(dataset, order, data.num_workers, BadSampleLog(len(dataset), None)):
                yield move_data_to_device(batch, device)
