"""Two processes on the CPU, with teacher and student whole or split over them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_distill.export import load_student
from tests.scale.two_ranks import train

ROOT = Path(__file__).parents[2]
SPLIT = ("split", "split, resumed", "split, one file", "split, one file, resumed", "split, accumulated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not hasattr(os, "fork") or not torch.distributed.is_gloo_available():
        pytest.skip("needs fork and gloo")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "tests.scale.two_ranks", str(folder), str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Any]:
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process with batches of what both have together."""
    return train(tmp_path_factory.mktemp("alone"), 16)


def assert_close(found: Any, expected: Any) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for name, values in expected["weights"].items():
        assert found["weights"][name] == pytest.approx(values, abs=1e-5), name
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-5)


def test_the_rule_clips_in_these_trainings(alone: Any) -> None:
    assert 0.1 < alone["metrics"]["clip/clipped_share/a"] < 0.9


def test_half_the_batch_twice_is_one_step(alone: Any, tmp_path: Path) -> None:
    found = train(tmp_path, 8, accumulate_grad_batches=2)
    assert_close(found, alone)
    assert found["clips"] == found["steps"] == 4


@pytest.mark.row("D8")
@pytest.mark.parametrize("name", ["ddp", "accumulated", "sharded teacher", *SPLIT])
def test_two_processes_train_as_one(name: str, ranks: list[Any], alone: Any) -> None:
    for rank in ranks:
        assert_close(rank[name], alone)
        assert rank[name]["steps"] == 4
        assert rank[name]["clips"] == (2 if "resumed" in name else 4)  # once an optimizer step


def test_a_split_student_whose_encoders_are_frozen(ranks: list[Any], tmp_path: Path) -> None:
    """Then no encoder's output tells FSDP that a backward pass has begun; only the student's own does."""
    expected = train(tmp_path, 16, frozen=True)
    for rank in ranks:
        assert_close(rank["split, frozen"], expected)


@pytest.mark.parametrize("name", SPLIT)
def test_no_process_holds_the_student_whole(name: str, ranks: list[Any]) -> None:
    first, second = (rank[name]["shares"] for rank in ranks)
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx([1.0] * len(first))
    assert max(*first, *second) < 0.7


@pytest.mark.row("D8")
def test_a_sharded_teacher_says_what_the_whole_one_says(ranks: list[Any]) -> None:
    for rank in ranks:
        found = rank["answers"]
        assert found["float32"] < 1e-5
        assert 0 < found["bfloat16"] < 0.05
        assert found["float32 types"] == found["bfloat16 types"] == ["torch.float32"]
        assert 0.4 < found["float32 share"] < 0.6


@pytest.mark.parametrize("name", ["split", "split, one file"])
def test_the_student_that_is_saved_is_whole(name: str, folder: Path, ranks: list[Any]) -> None:
    student = load_student(folder / name / "student", ["tests"])
    for key, tensor in student.state_dict().items():
        assert tensor.flatten().tolist() == ranks[0][name]["weights"][f"student.{key}"]


def test_what_cannot_be_split_is_refused(ranks: list[Any]) -> None:
    for rank in ranks:
        said = rank["refused"]
        assert "data_parallel_size: 2 and tensor_parallel_size: 1" in said["tensor parallel"]
        assert "a balancer that needs no gradient" in said["balancer"]
        assert "EmaTeacher, which follows a student" in said["teacher"]
