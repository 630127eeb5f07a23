"""What a loader of a stream is made of."""

from __future__ import annotations

from lightning_distill.data.part_dataset import part_loading
from lightning_distill.data.part_stream import PartStream
from lightning_distill.data.reading import Reading
from lightning_distill.data.stream import StreamSource
from lightning_distill.data.stream_dataset import StreamDataset, StreamSampler


def stream_loading(
    source: StreamSource, reading: Reading, batch_size: int, place: tuple[int, int], first: tuple[int, int]
) -> tuple[StreamDataset, StreamSampler]:
    """Data set and sampler of a stream, or of one that comes in parts.

    Args:
        source: The stream.
        reading: How its samples are read, and of which split.
        batch_size: Samples a batch and rank.
        place: Rank and number of processes.
        first: Epoch and batch to start with.
    """
    if isinstance(source, PartStream):
        return part_loading(source, reading, batch_size, place, first)
    order = StreamSampler(batch_size, reading.split == "train", *place, first)
    return StreamDataset(source, reading), order
