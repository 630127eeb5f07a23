"""Jobs in processes, of which finished ones are kept in a file: a run that was cut goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar


class Keyed(Protocol):
    """A job, told from all others by its key: that of {"job": ...} in what it finds."""

    @property
    def key(self) -> str:
        """JSON with sorted keys."""


J = TypeVar("J", bound=Keyed)


class Runner(Generic[J]):
    """Runs jobs in processes of one thread, keeps what they have found, tells how long it will take.

    Args:
        file: One finished job a line.
        work: Does a job; its answer has the job under "job". Importable by name.
        begin: Makes a process ready.
        given: What `begin` is called with.
        workers: Processes; with 0 all is done in this one.
    """

    def __init__(
        self,
        file: Path,
        work: Callable[[J], dict[str, Any]],
        begin: Callable[..., None],
        given: tuple[Any, ...],
        workers: int,
    ) -> None:
        self.file, self.work = file, work
        file.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        if file.exists():
            # The last line may have been cut in two.
            lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            file.write_text("".join(lines))
            found = map(json.loads, lines)
            self.done = {json.dumps(one["job"], sort_keys=True): one for one in found}
        self.pool: ProcessPoolExecutor | None = None
        if workers:
            os.environ["OMP_NUM_THREADS"] = "1"
            self.pool = ProcessPoolExecutor(
                workers, mp_context=get_context("spawn"), initializer=begin, initargs=given
            )
        else:
            begin(*given)

    def __enter__(self) -> Runner[J]:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def missing(self, jobs: Sequence[J]) -> list[J]:
        """Those that are not done, each once."""
        return list({job.key: job for job in jobs if job.key not in self.done}.values())

    def all(self, jobs: Sequence[J], what: str) -> list[dict[str, Any]]:
        """What each job has found, in their order."""
        missing, begun = self.missing(jobs), time.monotonic()
        for count, (job, found) in enumerate(self._found(missing), 1):
            self.done[job.key] = found
            with self.file.open("a") as file:
                file.write(json.dumps(found) + "\n")
            if count % 20 == 0 or count == len(missing):
                left = (time.monotonic() - begun) / count * (len(missing) - count)
                print(f"{what}: {count} of {len(missing)}, {left:.0f} s left", flush=True)
        return [self.done[job.key] for job in jobs]

    def _found(self, jobs: Sequence[J]) -> Iterator[tuple[J, dict[str, Any]]]:
        if self.pool is None:
            yield from ((job, self.work(job)) for job in jobs)
            return
        futures = {self.pool.submit(self.work, job): job for job in jobs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
