"""Distributed runs: faults of one process, uneven data, and what the processes must have in common."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lightning_distill
from lightning_distill.callbacks.rank_comparison import code
from tests.processes import needs_fork
from tests.reliability.counts import NIGHTLY, times
from tests.reliability.rank_runs import Ended, config, fit, pair
from tests.reliability.rank_trainings import size, slow_disk, steps, together

ROOT = Path(__file__).parents[2]
FAULTS = ("raise", "kill", "hang", "error", "orphan")

pytestmark = needs_fork


def fitted(folder: Path, *configs: dict[str, Any]) -> Ended:
    """Train by the command line; one config a process, or one for both."""
    paths = []
    for rank, found in enumerate(configs * (2 // len(configs))):
        paths.append(folder / f"config{rank}.yaml")
        paths[-1].write_text(yaml.safe_dump(found))
    return pair(folder, fit, (folder, folder), paths)


@pytest.mark.row("D1")
@pytest.mark.parametrize("number", range(times(3, 30)))
def test_D1_a_process_that_fails_dies_or_hangs_ends_all(number: int, tmp_path: Path) -> None:
    rng = random.Random(number)
    fault, rank = FAULTS[number % len(FAULTS)], 1 if number < len(FAULTS) else rng.randrange(2)
    ended = fitted(
        tmp_path, config(fault=fault, rank=rank, at=rng.randrange(14 if fault == "orphan" else 100))
    )
    fault_at = float((tmp_path / "fault").read_text())
    assert ended.at - fault_at <= 30
    other = 1 - rank
    if fault in ("kill"):
        assert ended.codes[rank] == -9
    assert ended.codes[other] == 6
    said = ended.said[other].splitlines()
    (error,) = [line for line in said if line.startswith("error: ")]
    assert error.startswith(f"error: rank {rank}")
    expected = {
        "raise": "SampleError, damage",
        "kill": "it was killed",
        "orphan": "it was killed",
        "hang": f"its main thread is in {ROOT}/tests/reliability/rank_runs.py",
        "error": "RuntimeError: a plain error of row",
    }
    assert expected[fault] in error
    if fault == "raise":
        assert "table.csv row" in error
        assert ".png" in error
        assert ended.codes[rank] == 3


@pytest.mark.row("D1")
@pytest.mark.parametrize("number", range(times(1, 10)))
def test_D1_a_process_that_the_command_line_has_started_is_killed(number: int, tmp_path: Path) -> None:
    """Lightning's own watch kills the first process a few seconds later; ours is to be heard before."""
    settings = config(fault="kill", at=random.Random(number).randrange(100))
    settings["trainer"]["strategy"] = "ddp"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "lightning_distill", "fit", "--config", "config.yaml", "--run", "run"]
    place = {"PYTHONPATH": str(ROOT), "LIGHTNING_DISTILL_ALLOW": "tests", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "MASTER_PORT"} | place
    # The output ends when all processes that hold it have ended.
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert time.time() - float((tmp_path / "fault").read_text()) <= 30
    assert done.returncode == 6, done.stderr[-3000:]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: rank 1: found its end: it was killed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained together, in every way of `rank_trainings`."""
    folder = tmp_path_factory.mktemp("together")
    package = Path(lightning_distill.__file__).parent
    shutil.copytree(package, folder / "package")
    with (folder / "package" / "ranks.py").open("a") as file:
        file.write("\n")
    ended = pair(folder, together, (0, 1), (folder, folder), (COUNT, COUNT), seconds=200)
    assert ended.codes == (0, 0), "\n".join(ended.said)[-5000:]
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Any]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


COUNT = times(20, 100)
"""Steps in which two processes must not drift from one."""


@pytest.mark.row("D2", "D3")
@pytest.mark.parametrize("n", range(2, 18))
def test_D2_D3_any_number_of_samples_on_two_processes(n: int, ranks: list[Any], tmp_path: Path) -> None:
    first, second = (rank[f"size {n}"] for rank in ranks)
    alone = size(n, tmp_path)
    assert first["steps"] == second["steps"] == math.ceil(n // 2 / 2)
    assert first["metrics"] == second["metrics"]
    for name in ("val/accuracy", "val/macro_f1"):  # counts: the same to the last bit
        assert first["metrics"][name] == alone["metrics"][name]
    # Sums of float32 in another order: of losses, and of probabilities, which are of the size of 1.
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-6, abs=torch.finfo().eps)
    # In evaluation processes take turns in the order of the table, whatever Lightning would like.
    rows = list(range(5000 + n, 5000 + 2 * n))
    assert [flat(rank["validated"]) for rank in (first, second)] == [rows[0::2], rows[1::2]]
    trained = [flat(rank["trained"]) for rank in (first, second)]
    assert len(trained[0]) == len(trained[1]) == n // 2
    assert len(set(trained[0] + trained[1])) == n // 2 * 2


@pytest.mark.row("D2")
def test_D2_fewer_samples_than_processes(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "1 samples for 2 processes" in rank["size 1"]["error"]


@pytest.mark.row("D2", "D4")
@pytest.mark.parametrize(("n", "batches"), [(1, 0), (7, 1)])
def test_D4_a_stream_of_which_one_process_has_nothing(
    n: int, batches: int, ranks: list[Any], tmp_path: Path
) -> None:
    first, second = (rank[f"a stream of {n}"] for rank in ranks)
    alone = size(n, tmp_path, stream=True)
    assert first["steps"] == second["steps"] == batches
    assert len(flat(first["validated"])) > len(flat(second["validated"]))
    assert (
        first["metrics"]
        == second["metrics"]
        == pytest.approx(alone["metrics"], rel=1e-6, abs=torch.finfo().eps)
    )


@pytest.mark.row("D3")
@pytest.mark.parametrize(("precision", "relative"), [("32-true", 1e-6), ("64-true", 1e-12)])
def test_Z7_two_processes_are_one(precision: str, relative: float, ranks: list[Any], tmp_path: Path) -> None:
    """The same samples in each step, the same gradient, and after many steps the same weights."""
    alone, both = steps(COUNT, precision, 16, tmp_path), [rank[precision] for rank in ranks]
    for one, *halves in zip(alone["trained"], *(rank["trained"] for rank in both), strict=True):
        assert sorted(one) == sorted(halves[0] + halves[1])
    for rank in both:
        assert apart(rank["gradient"], alone["gradient"]) <= relative
        assert apart(rank["weights"], alone["weights"]) <= 1e-5
    assert len(alone["trained"]) == COUNT


def flat(batches: list[list[int]]) -> list[int]:
    """All samples, in order."""
    return [sample for batch in batches for sample in batch]


def apart(found: list[float], expected: list[float]) -> float:
    """Norm of the difference, relative."""
    return math.dist(found, expected) / math.hypot(*expected)


@pytest.mark.row("D6")
def test_D6_who_waits_for_a_disk_waits_for_a_while(tmp_path: Path) -> None:
    ended = pair(tmp_path, slow_disk, (tmp_path, tmp_path))
    assert ended.codes == (6, 6), ended.said
    (error,) = [line for line in ended.said[1].splitlines() if line.startswith("error: ")]
    assert error.startswith("error: rank 0: found no answer within the time limit; its main thread is in ")
    assert "rank_trainings.py" in error
    assert "in save_checkpoint" in error


@pytest.mark.row("D6")
def test_D6_one_process_writes(tmp_path: Path) -> None:
    ended = fitted(tmp_path, config())
    assert ended.codes == (0, 0), ended.said
    first, second = (set((tmp_path / f"written{rank}").read_text().splitlines()) for rank in (0, 1))
    names = {"config.yaml", "env.json", "metrics.csv", "checkpoints", "student"}
    assert all(any(name in path for path in first) for name in names), first
    assert second == set()


@pytest.mark.row("D9")
def test_D9_processes_that_see_different_runs(ranks: list[Any]) -> None:
    for rank in ranks:
        said = rank["left behind"]
        assert said["nothing"] == said["nothing again"] == ""
        for name in ("config", "data", "code"):
            assert said[name].startswith(f"rank 1: found another {name} than rank 0"), said[name]
        assert "batch_size: 4; rank 0: batch_size: 8" in said["config"]
        assert "number of training batches" in said["batches"]


@pytest.mark.row("D9")
@pytest.mark.skipif(not NIGHTLY, reason="the same by the command line: at night")
def test_D9_configs_of_the_command_line(tmp_path: Path) -> None:
    first, second = config(), config()
    second["data"]["init_args"]["batch_size"] = 2
    ended = fitted(tmp_path, first, second)
    assert ended.codes == (6, 6)
    for said in ended.said:
        assert "rank 1: found another config than rank 0 (batch_size: 2; rank 0: batch_size: 4)" in said


@pytest.mark.row("D9")
def test_D9_code_is_told_apart_by_any_byte(tmp_path: Path) -> None:
    package = Path(lightning_distill.__file__).parent
    shutil.copytree(package, tmp_path / "package")
    assert code(tmp_path / "package") == code(package)
    with (tmp_path / "package" / "units" / "base.py").open("a") as file:
        file.write("#")
    assert code(tmp_path / "package") != code(package)


def test_a_watch_leaves_no_thread_and_no_file_behind(ranks: list[Any]) -> None:
    for rank in ranks:
        files, threads = zip(rank["left behind"]["before"], rank["left behind"]["after"], strict=True)
        assert files[0] >= files[1]
        assert threads[0] == threads[1]
