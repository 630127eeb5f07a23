"""Loading batches, in this process or in workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from multiprocessing.util import get_temp_dir
from typing import Any, ClassVar, Final

import torch
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_distill.data.bad_samples import BadSampleLog, Substituted
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.sampling import BatchKey
from lightning_distill.data.stream_dataset import StreamDataset, StreamEnd, StreamSampler
from lightning_distill.data.worker_signals import outlive_signals
from lightning_distill.errors import DistillError, WorkerError
from lightning_distill.structures import Batch

_LOOK: Final = 5.0
"""Seconds between two looks at whether the workers live."""


class _Looking(_MultiProcessingDataLoaderIter):
    """Looks at the workers while it waits for them.

    With a time-out, torch waits for all of it and trusts the signal of a child's death to interrupt it. In a
    process of several threads the signal may go to another thread, and the death is told minutes later.
    """

    def _try_get_data(self, timeout: float = _LOOK) -> tuple[bool, Any]:
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                got: tuple[bool, Any] = super()._try_get_data(min(max(left, 0.0), _LOOK))
            except (ConnectionError, EOFError, FileNotFoundError) as error:
                # A worker's tensors come through a socket, which is gone before its process seems to be.
                raise RuntimeError("DataLoader worker ended while its batch was fetched") from error
            if got[0] or left <= _LOOK:
                return got


class BatchLoader(DataLoader[Batch | DistillError | Substituted | StreamEnd]):
    """A DataLoader whose items are whole batches.

    It asks its sampler, and starts its workers, at the first batch: Lightning calls `iter` before it has told
    the sampler which epoch a resumed run is in. An error a worker met is raised as it was, with its type and
    fields; torch would make a RuntimeError of its traceback. Of a worker that died, or does not answer, it is
    said which samples it was reading.

    Made by `batch_loader`; the constructor is DataLoader's own, since Lightning makes one anew to predict.
    """

    patience: ClassVar[float] = 600.0
    """Seconds after which a worker that has not answered is given up."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        data: Any = self.dataset
        try:
            for batch in super().__iter__():
                if isinstance(batch, DistillError):
                    raise batch
                if isinstance(batch, StreamEnd):
                    break
                if isinstance(batch, Substituted):
                    if data.log is not None:
                        data.log.add(batch.records)
                    batch = batch.batch
                yield batch
        except DistillError:
            self._stop_workers()
            raise
        except RuntimeError as error:
            # "Caught ..." is an error that the user's own code raised in a worker that lives on.
            if "DataLoader" not in str(error) or str(error).startswith("Caught "):
                raise
            lost = self._lost(error)
            self._stop_workers()
            raise lost from error

    def _get_iterator(self) -> Any:
        if self.num_workers:
            # Workers inherit the folder of their sockets, and this process removes it at its end: also what a
            # worker that was killed has left there.
            get_temp_dir()
        return _Looking(self) if self.num_workers else super()._get_iterator()

    def _stop_workers(self) -> None:
        # Now, while they listen: when the garbage collector does it, it waits 5 s for each.
        workers, self._iterator = self._iterator, None
        if isinstance(workers, _MultiProcessingDataLoaderIter):
            workers._shutdown_workers()

    def _lost(self, error: RuntimeError) -> WorkerError:
        """What a worker was reading when it was lost."""
        data = self.dataset
        assert isinstance(data, MultimodalDataset | StreamDataset)
        assert data.watch is not None
        rows = [
            f"worker {at}: {data.source.describe(row)}"
            for at, row in enumerate(data.watch.tolist())
            if row >= 0
        ]
        silent = "timed out" in str(error)
        return WorkerError(
            where="; ".join(rows) or "a worker that had read nothing yet",
            found=f"a worker that has not answered for {self.patience:.0f} s"
            if silent
            else f"a worker that died ({' '.join(str(error).split())})",
            expected="every worker to answer",
            fix="look at the files of those samples; num_workers=0 shows the error itself"
            + ("" if silent else "; if memory ran out, lower num_workers or batch_size"),
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: where to go on follows from Lightning's counts. That it is there tells Lightning so."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


def batch_loader(
    dataset: MultimodalDataset | StreamDataset,
    sampler: DistributedSampler[BatchKey] | StreamSampler,
    num_workers: int,
    log: BadSampleLog,
) -> BatchLoader:
    """A loader of whole batches.

    Args:
        dataset: The samples.
        sampler: Which of them make which batch.
        num_workers: Processes that read; 0 reads in this one.
        log: Where bad samples are recorded.

    Raises:
        SampleError: If too many were bad when the data set was read into memory.
    """
    if num_workers:
        dataset.watch = torch.full((num_workers,), -1, dtype=torch.int64).share_memory_()
    dataset.log = log
    log.add(dataset.records)
    dataset.records = ()
    return BatchLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        timeout=BatchLoader.patience if num_workers else 0,
        worker_init_fn=_begin_work,
    )


def _begin_work(worker: int) -> None:
    """OpenCV's own threads and forked workers do not go together; signals are not for workers."""
    import cv2

    cv2.setNumThreads(0)
    outlive_signals()


def resume_point(trainer: Any) -> tuple[int, int]:
    """Epoch and batch to go on with: Lightning counts the batches of a checkpoint, but does not skip them."""
    loop = trainer.fit_loop
    epoch, batch = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    if not (loop.restarting and epoch.started > epoch.processed):
        return epoch.processed, 0
    return (epoch.processed + 1, 0) if batch.is_last_batch else (epoch.processed, batch.current.processed)
