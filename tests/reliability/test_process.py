"""What a run takes from the machine, and leaves behind: memory, open files, processes, shared memory."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_distill import DistillationModule
from lightning_distill.callbacks import BestCheckpoint
from lightning_distill.checkpoints import VerifiedCheckpointIO
from lightning_distill.cli.loggers import HistoryLogger
from lightning_distill.errors import WorkerError
from tests.builders import make_data, make_model, make_trainer
from tests.processes import context, needs_fork, run_apart
from tests.reliability.counts import times

pytestmark = [
    needs_fork,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc"),
]

_MEGABYTE = 1 << 20


def memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> dict[str, str]:
    """Number -> what it leads to."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = os.readlink(link)
        except OSError:
            continue  # that of this very look
    return found


def children(of: int) -> dict[int, str]:
    """Number -> state of the processes that one has started; multiprocessing's own tracker does not count."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == of and b"resource_tracker" not in words:
            found[int(folder.name)] = state
    return found


def gone(pids: list[int], seconds: float = 15) -> bool:
    """Whether all of them end in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def shared_memory(pids: list[int]) -> list[str]:
    """What torch keeps there for one of these processes."""
    names = [p.name for p in Path("/dev/shm").iterdir()] if Path("/dev/shm").is_dir() else []
    return [n for n in names if (match := re.match(r"torch_(\d+)_", n)) and int(match[1]) in pids]


class Watch(Callback):
    """Looks at this process after each hundred steps."""

    def __init__(self) -> None:
        self.memory: list[int] = []
        self.files: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step % 100 == 0:
            self.memory.append(memory())
            self.files.append(len(open_files()))


def _many_steps(folder: Path, temporary: Path, steps: int) -> None:
    tempfile.tempdir = str(temporary)
    watch, own = Watch(), folder / "checkpoints"
    trainer = make_trainer(
        folder,
        logger=[HistoryLogger(folder)],
        enable_checkpointing=True,
        callbacks=[
            watch,
            BestCheckpoint(dirpath=own, filename="best", monitor="val/loss"),
            ModelCheckpoint(own, filename="last", every_n_epochs=20, enable_version_counter=False),
        ],
        plugins=[VerifiedCheckpointIO()],
        log_every_n_steps=5,
        max_steps=steps,
        max_epochs=-1,
        check_val_every_n_epoch=20,
    )
    trainer.fit(DistillationModule(make_model()), make_data())
    (folder / "seen.json").write_text(json.dumps([watch.memory, watch.files]))


@pytest.mark.row("P9")
def test_a_thousand_steps_take_no_more_memory_and_files(tmp_path: Path) -> None:
    temporary, steps = tmp_path / "temporary", times(1100, 10_100)
    temporary.mkdir()
    run_apart(_many_steps, tmp_path, temporary, steps)
    used, files = json.loads((tmp_path / "seen.json").read_text())
    assert len(used) == steps // 100
    warm = 1  # the first checkpoints and validations are behind it
    growth = (min(used[-3:]) - used[warm - 1]) / (steps / 1000 - warm / 10)
    assert growth <= 5 * _MEGABYTE, [round(x / _MEGABYTE, 1) for x in used]
    assert set(files[warm - 1 :]) == {files[warm - 1]}
    assert list(temporary.iterdir()) == []
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    known = {"best.ckpt", "last.ckpt", "best.ckpt.previous", "last.ckpt.previous", "metrics.csv", "seen.json"}
    assert left <= known
    assert {"best.ckpt", "last.ckpt", "metrics.csv"} <= left


class Note(Callback):
    """Writes down which workers there are, then does something in a step.

    Args:
        file: To write to.
        act: Told the workers' numbers.
    """

    def __init__(self, file: Path, act: Callable[[list[int]], None]) -> None:
        self.file, self.act = file, act

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1 and trainer.current_epoch == 0:
            workers = list(children(os.getpid()))
            self.file.write_text(json.dumps([os.getpid(), *workers]))
            self.act(workers)


def _nothing(workers: list[int]) -> None:
    assert len(workers) == 2


def _fail(workers: list[int]) -> None:
    raise ZeroDivisionError("in a step")


def _kill_one(workers: list[int]) -> None:
    os.kill(workers[0], signal.SIGKILL)


def _sleep(workers: list[int]) -> None:
    time.sleep(100)


def _train(folder: Path, act: Callable[[list[int]], None], error: type[Exception] | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that no test has started
    folder.mkdir(exist_ok=True)
    before = set(open_files().values())
    trainer = make_trainer(folder, callbacks=[Note(folder / "pids", act)], max_epochs=2)
    module, data = DistillationModule(make_model()), make_data(batch_size=2, num_workers=2)
    if error is None:
        trainer.fit(module, data)
    else:
        with pytest.raises(error):
            trainer.fit(module, data)
    del trainer, module, data
    gc.collect()
    end = time.monotonic() + 10
    while children(os.getpid()) and time.monotonic() < end:
        multiprocessing.active_children()  # joins those that have ended
        time.sleep(0.05)
    assert children(os.getpid()) == {}  # neither alive nor a zombie
    new = [name for name in open_files().values() if name not in before and name.startswith("/dev/shm")]
    assert new == []


CASES: dict[str, tuple[Callable[[list[int]], None], type[Exception] | None]] = {
    "ends well": (_nothing, None),
    "fails": (_fail, ZeroDivisionError),
    "loses a worker": (_kill_one, WorkerError),
}


def _train_all(folder: Path, temporary: Path) -> None:
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    for name, (act, error) in CASES.items():
        _train(folder / name, act, error)


@pytest.mark.row("P10")
def test_nothing_is_left_of_workers(tmp_path: Path) -> None:
    """Of a run that ends well, of one that fails in a step, and of one that loses a worker."""
    temporary = tmp_path / "temporary"
    run_apart(_train_all, tmp_path, temporary)
    assert list(temporary.iterdir()) == []
    for name in CASES:
        pids = json.loads((tmp_path / name / "pids").read_text())
        assert len(pids) == 3, name
        assert gone(pids)
        assert shared_memory(pids) == []


@pytest.mark.row("P10")
def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    process = context().Process(target=_train, args=(tmp_path, _sleep, None))
    process.start()
    end = time.monotonic() + 100
    while not (tmp_path / "pids").is_file() and time.monotonic() < end and process.is_alive():
        time.sleep(0.05)
    time.sleep(0.2)  # the file is written
    pids = json.loads((tmp_path / "pids").read_text())
    assert len(pids) == 3
    process.kill()
    process.join(10)
    assert gone(pids)
    assert shared_memory(pids) == []
