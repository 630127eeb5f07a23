"""Filling and checking the cache of a teacher's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from lightning_distill import checks
from lightning_distill.caching.lookup import EVALUATION
from lightning_distill.commands.making import make
from lightning_distill.commands.opening import check_splits
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.bad_samples import BadSampleLog
from lightning_distill.data.loader import batch_loader
from lightning_distill.data.sampling import BatchSampler
from lightning_distill.module import DistillationModule
from lightning_distill.shelves import import_shelves
from lightning_distill.structures import Batch
from lightning_distill.teachers import CachedTeacher


@dataclass(frozen=True)
class _Job:
    """Samples in one view whose answers are missing."""

    view: int
    rows: NDArray[np.int64]


def fill(config: Mapping[str, Any], splits: Sequence[str], part: tuple[int, int]) -> int:
    """Ask the teacher about every sample, and every view of it, that has no answer yet.

    Args:
        config: Of `fit`, with a `CachedTeacher`.
        splits: Of train, val, test.
        part: (n, m): from the n-th on, every m-th.

    Returns:
        Exit code.

    Raises:
        DiskError: If the disk refuses.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    data, teacher = _opened(config, splits)
    jobs = [_Job(job.view, job.rows[part[0] :: part[1]]) for job in _jobs(data, teacher, splits)]
    total = sum(len(job.rows) for job in jobs)
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("asking", total=total)
        for done in teacher.fill(_batches(data, jobs)):
            progress.update(bar, completed=done)
    cache = teacher.cache
    size = sum(path.stat().st_size for path in cache.folder.glob("*") if path.is_file())
    print(f"{cache.folder}: {len(cache):,} answers, {size / 2**20:.1f} MiB; {teacher.missing:,} missing")
    return 0


def verify(config: Mapping[str, Any], splits: Sequence[str]) -> int:
    """Compare everything with its checksum, and say what is damaged.

    Args:
        config: Of `fit`, with a `CachedTeacher`.
        splits: Of train, val, test.

    Returns:
        Exit code.
    """
    _, teacher = _opened(config, splits)
    found = teacher.cache.mend(remove=False)
    for line in found.damage:
        print(f"damaged: {line}")
    print(f"{teacher.cache.folder}: {found.checked:,} blocks checked, {len(found.damage)} damaged")
    return 3 if found.damage else 0


def _opened(config: Mapping[str, Any], splits: Sequence[str]) -> tuple[MultimodalDataModule, CachedTeacher]:
    check_splits(splits)
    import_shelves()
    module = make(DistillationModule, "model", config["model"])
    data, teacher = make(LightningDataModule, "data", config["data"]), module.teacher
    assert isinstance(teacher, CachedTeacher)
    for processor in (
        *getattr(data, "processors", {}).values(),
        *getattr(data, "teacher_processors", {}).values(),
    ):
        processor.check()
    checks.classes_fit(module.student, teacher, getattr(data, "classes", None))
    checks.preprocessing_fits(module.student, teacher, data)
    if any(module.terms.layers):
        teacher.read_layers(module.terms.layers[1])
    teacher.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    teacher.open(data, splits)
    return data, teacher


def _jobs(data: MultimodalDataModule, teacher: CachedTeacher, splits: Sequence[str]) -> Iterator[_Job]:
    ids = data.indexed.samples.sample_id
    for view, lookup in teacher.lookups.items():
        missing = lookup.sample_id[lookup.places < 0]
        rows = np.concatenate([data.rows(s) for s in (splits if view == EVALUATION else ("train",))])
        wanted = rows[np.isin(ids[rows], missing)]
        yield _Job(view, wanted[np.sort(np.unique(ids[wanted], return_index=True)[1])])


def _batches(data: MultimodalDataModule, jobs: Sequence[_Job]) -> Iterator[Batch]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for job in jobs:
        if not len(job.rows):
            continue
        # "val" where no view is wanted, for "train" would augment.
        reading = replace(data.reading("val" if job.view == EVALUATION else "train"), in_memory=False)
        dataset = data.make_dataset(job.rows, reading)
        order = BatchSampler(len(dataset), data.batch_size, data.seed, False, first=(max(job.view, 0), 0))
        for batch in batch_loader(dataset, order, data.num_workers, BadSampleLog(len(dataset), None)):
            # The teacher alone is asked: what it sees in a way of its own stands in the student's place.
            seen = {**batch["inputs"], **batch.get("teacher_inputs", {})}
            yield move_data_to_device({**batch, "inputs": seen}, device)
