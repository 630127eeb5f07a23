"""Work that is killed, or whose disk refuses, at one chosen system call, with strace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import torch

from lightning_distill.errors import DistillError

_CHANGING: Final = (
    "write|pwrite64|writev|ftruncate|fsync|fdatasync|rename|renameat|renameat2|link|linkat|unlink|unlinkat"
    "|mkdir|mkdirat"
)
"""Calls that change what is on a disk, or wait for it."""


class Point(NamedTuple):
    """One system call of some work.

    Attributes:
        call: Its name.
        number: Which of the calls of that name, from 1.
    """

    call: str
    number: int


def points_of(work: Callable[[], None], folder: Path) -> list[Point]:
    """All system calls of the work that change the disk, in their order; the work is done.

    Args:
        work: What to do.
        folder: For strace's notes.
    """
    notes = folder / "strace"
    assert _run(work, "-o", str(notes)) == 0
    seen: dict[str, int] = {}
    points = []
    for call in re.findall(r"^(\w+)\(", notes.read_text(), re.MULTILINE):
        seen[call] = seen.get(call, 0) + 1
        points.append(Point(call, seen[call]))
    return points


def killed_at(point: Point, work: Callable[[], None]) -> None:
    """Do the work in a copy of this process, which gets SIGKILL instead of one of its system calls."""
    status = _run(work, "-o", "/dev/null", "-e", f"inject={point.call}:signal=KILL:when={point.number}")
    assert status == -signal.SIGKILL, f"{point} was not reached: {status}"


def refused_at(point: Point, error: str, work: Callable[[], None], ever_after: bool = False) -> int:
    """Do the work in a copy of this process, one of whose system calls fails.

    Args:
        point: Which call.
        error: Name of the errno, such as "ENOSPC".
        work: What to do.
        ever_after: Whether later calls of that name fail too.

    Returns:
        The exit code that the command line would have.
    """
    when = f"{point.number}{'+' if ever_after else ''}"
    return _run(work, "-o", "/dev/null", "-e", f"inject={point.call}:error={error}:when={when}")


def _run(work: Callable[[], None], *options: str) -> int:
    if shutil.which("strace") is None:
        pytest.skip("needs strace, which makes system calls fail")
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        _copy(work, wait)
    os.close(wait)
    words = ["strace", "-p", str(child), "-e", f"trace=/^({_CHANGING})$", *options]
    tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            os.kill(child, signal.SIGKILL)
            pytest.skip(f"strace may not follow processes here: {said}")
        os.write(go, b"!")
    finally:
        os.close(go)
        _, status = os.waitpid(child, 0)
        tracer.wait()
        tracer.stderr.close()
    return os.waitstatus_to_exitcode(status)


def _copy(work: Callable[[], None], wait: int) -> None:
    """Ends the process."""
    code = 1
    try:
        torch.set_num_threads(1)  # threads do not outlive a fork
        if os.read(wait, 1):
            work()
        code = 0
    except DistillError as error:
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
