"""Two processes that train together, of which one fails; used by `test_ranks.py`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_distill.errors import SampleError
from tests.builders import CLASSES, DIMS, VectorSource
from tests.processes import context


class FaultySource(VectorSource):
    """Something happens to one process while it reads.

    Args:
        fault: "raise", "error", "kill", "hang", or "orphan", which kills the process whose worker this is;
            anything else is no fault.
        rank: Of that process.
        at: How many samples are read before, in it or in each of its workers.
    """

    def __init__(self, fault: str = "", rank: int = 1, at: int = 0) -> None:
        super().__init__()
        self.fault, self.left = (fault if os.environ.get("LOCAL_RANK") == str(rank) else ""), at

    def load(self, modality: str, row: int) -> NDArray[np.float64]:
        self.left -= 1
        if self.left < 0 and self.fault:
            Path("fault").write_text(str(time.time()))
            if self.fault == "raise":
                raise SampleError(
                    where=f"table.csv row {row}", found="damage", expected="no", fix=f"mend {row}.png"
                )
            if self.fault == "error":
                raise RuntimeError(f"a plain error of row {row}")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "orphan":
                os.kill(os.getppid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(600)
        return super().load(modality, row)


def config(**source: Any) -> dict[str, Any]:
    """Training by the command line on a `FaultySource`."""
    here = "tests.builders"
    encoders = {
        m: {"class_path": f"{here}.VectorEncoder", "init_args": {"dim": dim}} for m, dim in DIMS.items()
    }
    processors = {
        m: {"class_path": f"{here}.VectorProcessor", "init_args": {"dim": dim}} for m, dim in DIMS.items()
    }
    student = {
        "class_path": "MultimodalModel",
        "init_args": {"encoders": encoders, "num_classes": len(CLASSES)},
    }
    reads = {"class_path": "tests.reliability.rank_runs.FaultySource", "init_args": source}
    workers = 2 if source.get("fault") == "orphan" else 0
    patience = "0:00:12" if source.get("fault") == "hang" else "0:01:00"
    strategy = {"class_path": "DDPStrategy", "init_args": {"timeout": patience}}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return {
        "trainer": {"accelerator": "cpu", "devices": 2, "max_epochs": 3, "strategy": strategy, **quiet},
        "model": {"class_path": "DistillationModule", "init_args": {"student": student}},
        "data": {
            "class_path": "MultimodalDataModule",
            "init_args": {"source": reads, "processors": processors, "batch_size": 4, "num_workers": workers},
        },
    }


class Ended(NamedTuple):
    """What became of two processes.

    Attributes:
        codes: Exit codes; those of a signal are negative.
        said: Standard output and error of each.
        at: When both had ended, as `time.time`.
    """

    codes: tuple[int, int]
    said: tuple[str, str]
    at: float


def pair(folder: Path, work: Callable[..., None], *arguments: Sequence[Any], seconds: float = 60) -> Ended:
    """Run `work(rank's argument, ...)` in two processes that nobody looks after but they themselves.

    Args:
        folder: For what they say.
        work: To run in each.
        arguments: Each with two values, one a rank.
        seconds: After which both are killed.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    said = [folder / f"rank{rank}.txt" for rank in (0, 1)]
    processes = [
        context().Process(target=_run, args=(rank, port, said[rank], work, *(a[rank] for a in arguments)))
        for rank in (0, 1)
    ]
    start = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0, start + seconds - time.monotonic()))
    at = time.time()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    codes = tuple(int(process.exitcode) for process in processes)
    return Ended(codes, tuple(path.read_text() for path in said), at)  # type: ignore[arg-type]


def _run(rank: int, port: int, said: Path, work: Callable[..., None], *arguments: Any) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "WORLD_SIZE": 2}
    os.environ |= {
        name: str(value)
        for name, value in {**meeting, "LOCAL_RANK": rank, "LIGHTNING_DISTILL_ALLOW": "tests"}.items()
    }
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    multiprocessing.set_start_method("fork", force=True)  # for its workers: that of any other process
    import torch
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

    rank_zero_only.rank = rank  # Lightning has looked when this process's origin imported it
    torch.set_num_threads(1)
    work(*arguments)


def fit(folder: Path, path: Path) -> None:
    """The real command line; `writtenN` lists what process N has written below the run's folder."""
    from lightning_distill.__main__ import main

    written: set[str] = set()
    sys.addaudithook(partial(_note, folder / "run", written))
    with contextlib.chdir(folder):
        code = main(["fit", "--config", str(path), "--run", "run"])
    (folder / f"written{os.environ['LOCAL_RANK']}").write_text("\n".join(written))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _note(folder: Path, written: set[str], event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        paths = [path] if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
    else:
        paths = list(arguments) if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") else []
    written.update(str(path) for path in paths if isinstance(path, str | Path) and _below(path, folder))


def _below(path: str | Path, folder: Path) -> bool:
    return os.path.abspath(path).startswith(str(folder))
