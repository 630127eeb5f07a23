"""The real command line, killed at any moment, and started again with the same words until it has ended."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from lightning_distill.checkpoints import newest_good, read_checkpoint
from tests.builders import same_bits
from tests.cli.conftest import module, small_config, write_project
from tests.processes import context, needs_fork
from tests.reliability.counts import times

WORDS = ("fit", "--config", "killed.yaml", "--run", "run", "--resume", "auto")
SECONDS = 120
"""After which a run that is not killed hangs."""


def write(folder: Path) -> None:
    """A project whose runs also save after every step."""
    folder.mkdir()
    write_project(folder)
    config = small_config()
    each = {"dirpath": "run/checkpoints", "filename": "step", "every_n_train_steps": 1, "save_top_k": 1}
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": each}
    saver["init_args"] |= {"enable_version_counter": False}  # type: ignore[operator]
    config["trainer"] |= {"max_epochs": 3, "callbacks": [saver], "val_check_interval": 2}
    module(config)["clip_rule"] = {"class_path": "AutoClip"}
    (folder / "killed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


class Starts:
    """Starts the command line in copies of a process that has imported everything and trained nothing.

    Args:
        folder: For what they print.
    """

    def __init__(self, folder: Path) -> None:
        self.said = folder / "said.txt"
        self._pipe, other = context().Pipe()
        self._process = context().Process(target=_start_copies, args=(other, self.said), daemon=False)

    def __enter__(self) -> Starts:
        self._process.start()
        assert self._pipe.poll(SECONDS)
        assert self._pipe.recv() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(SECONDS)

    def run(self, folder: Path, after: float | None = None) -> tuple[bool, float]:
        """Whether it ended by itself, and the seconds it ran once its folder was locked.

        Args:
            folder: Of the project.
            after: Seconds after which it is killed; less than 0 is before it has a folder.
        """
        self._pipe.send(folder)
        pid = self._pipe.recv()
        start = time.monotonic()
        lock = folder / "run" / ".lock"
        if after is not None and after < 0:
            time.sleep(-after)
        while (after is None or after >= 0) and not lock.exists() and not self._pipe.poll():
            time.sleep(0.005)
            assert time.monotonic() - start < SECONDS
        start = time.monotonic()
        ended = self._pipe.poll(SECONDS if after is None else max(after, 0))
        if not ended:
            assert after is not None
            os.kill(pid, signal.SIGKILL)
        status = self._pipe.recv()
        if ended:
            assert status == 0, self.said.read_text()[-3000:]
        return ended, time.monotonic() - start


def _start_copies(pipe: Any, said: Path) -> None:
    import lightning_distill.cli.command  # noqa: F401 - so that copies need not
    from lightning_distill.__main__ import main
    from lightning_distill.cli import names

    names.import_shelves()
    os.environ["WANDB_MODE"] = "disabled"
    pipe.send("ready")
    while (folder := pipe.recv()) is not None:
        pid = os.fork()
        if not pid:
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(folder)
            code = main(list(WORDS))
            sys.stdout.flush()
            os._exit(code)
        pipe.send(pid)
        pipe.send(os.waitpid(pid, 0)[1])


def tensors(value: Any, at: str = "") -> dict[str, Tensor]:
    """All tensors below a value, by their path."""
    if isinstance(value, Tensor):
        return {at: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for name, inner in items for k, v in tensors(inner, f"{at}/{name}").items()}


def outcome(run: Path) -> tuple[dict[str, Tensor], list[dict[str, str]], Any]:
    """Weights, optimizer, schedules, scores; the history; names of the student's files."""
    last = read_checkpoint(run / "checkpoints" / "last.ckpt")
    callbacks = {
        key: {k: v for k, v in state.items() if "path" not in k and k not in ("dirpath", "best_k_models")}
        for key, state in last["callbacks"].items()
    }
    kept = {key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    student = (run / "student" / "model.safetensors").read_bytes()
    return tensors(kept | {"callbacks": callbacks}), rows, student


@needs_fork
@pytest.mark.timeout(3000)
@pytest.mark.row("K2", "P7")
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with Starts(tmp_path) as starts:
        write(tmp_path / "whole")
        _, seconds = starts.run(tmp_path / "whole")
        expected, history, student = outcome(tmp_path / "whole" / "run")
        steps = [int(row["step"]) for row in history]
        assert steps == sorted(steps)
        draw, kills = random.Random(9), 0
        while kills < times(20, 100):
            folder = tmp_path / f"killed{kills}"
            write(folder)
            kills += killed_often(starts, folder, draw, seconds)
            found, rows, found_student = outcome(folder / "run")
            assert found.keys() == expected.keys()
            assert [name for name, x in expected.items() if not same_bits(x, found[name])] == []
            assert rows == history
            assert found_student == student
            assert not [p for p in (folder / "run").rglob(".*") if p.is_file()]
            shutil.rmtree(folder)


def killed_often(starts: Starts, folder: Path, draw: random.Random, seconds: float) -> int:
    """How often a run was killed before it was let come to its end, after five times at most."""
    for number in range(5):
        after = draw.uniform(0, 1.2) * seconds if draw.random() < 0.9 else -draw.uniform(0, 1)
        ended, _ = starts.run(folder, after)
        if ended:
            return number
        found = newest_good(folder / "run" / "checkpoints")
        assert found.damaged == ()
        if found.path is not None:
            read_checkpoint(found.path)
    starts.run(folder)
    return 5
