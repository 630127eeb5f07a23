"""What every stream in parts must do, for the tests of each."""

from __future__ import annotations

from lightning_distill.data import PartStream
from lightning_distill.data.bad_samples import BadSampleLog
from lightning_distill.data.loader import batch_loader
from lightning_distill.data.part_dataset import part_loading
from lightning_distill.structures import Batch
from tests.data.media import make_module


def epoch(
    source: PartStream,
    split: str,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    number: int = 0,
    first: tuple[int, int] = (0, 0),
    batch_size: int = 4,
) -> list[Batch]:
    """All batches of a rank."""
    reading = make_module(source).reading(split)
    data, sampler = part_loading(source, reading, batch_size, (rank, world), first)
    loader = batch_loader(data, sampler, workers, BadSampleLog(0, None))
    sampler.set_epoch(number)
    return list(loader)


def ids(found: list[Batch]) -> list[int]:
    return [int(i) for batch in found for i in batch["sample_id"]]


def check_every_sample_once(source: PartStream, split: str, world: int, workers: int) -> None:
    """In evaluation all samples, in training as many full batches on each rank."""
    everything = sorted(sample.sample_id for sample in source.stream(split, 0))
    assert len(set(everything)) == len(everything) == sum(source.sizes(split))
    found = [epoch(source, split, rank, world, workers) for rank in range(world)]
    seen = sorted(i for part in found for i in ids(part))
    assert len({len(part) for part in found}) == 1  # the same number of steps
    if split != "train":
        assert seen == everything
        return
    assert all(len(batch["sample_id"]) == 4 for part in found for batch in part)
    assert len(set(seen)) == len(seen) == len(everything) // (4 * world) * 4 * world
    assert set(seen) <= set(everything)
