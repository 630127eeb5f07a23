"""Programs in processes of their own, to be sent signals."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from tests.processes import context

_QUIET: Final = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled"}


class Ended(NamedTuple):
    """What is left of a program.

    Attributes:
        code: Exit code; -n where signal n has killed it.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        seconds: From the last signal, or the start, to the end.
    """

    code: int
    out: str
    err: str
    seconds: float


class Running:
    """A process in a group of its own; as a context it leaves none behind.

    Made by `program`, `command` and `fork`.

    Args:
        process: It.
        out: File that its stdout goes to.
        err: File that its stderr goes to.
    """

    def __init__(self, process: subprocess.Popen[bytes] | _Forked, out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err
        self._since = time.monotonic()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def said(self) -> str:
        """What it has written so far."""
        return self._out.read_text() + self._err.read_text()

    def wait_for(self, there: str | Path | Callable[[], object], seconds: float = 60) -> None:
        """Until it has written a text, a file is there, or a function says so; it must not end before."""
        end = time.monotonic() + seconds
        while not self._is(there):
            code = self.process.poll()
            assert code is None or self._is(there), f"ended with {code} before {there}:\n{self.said[-3000:]}"
            assert time.monotonic() < end, f"no {there} within {seconds} s:\n{self.said[-3000:]}"
            time.sleep(0.02)

    def _is(self, there: str | Path | Callable[[], object]) -> bool:
        if isinstance(there, str):
            return there in self.said
        return there.exists() if isinstance(there, Path) else bool(there())

    def signal(self, number: signal.Signals, whole_group: bool = False) -> None:
        """Send a signal to the process, or to it and all it has started."""
        self._since = time.monotonic()
        send = os.killpg if whole_group else os.kill
        send(self.process.pid, number)

    def end(self, seconds: float = 60) -> Ended:
        """Wait for its end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s:\n{self.said[-3000:]}") from None
        took = time.monotonic() - self._since
        return Ended(code, self._out.read_text(), self._err.read_text(), took)


class _Forked:
    """A `multiprocessing` process, as a Popen."""

    def __init__(self, process: Any) -> None:
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a process", timeout or 0)
        return code


def program(words: list[str], folder: Path, env: Mapping[str, str] | None = None) -> Running:
    """`python WORDS` in that folder; takes the seconds that its imports take.

    Args:
        words: After `python`.
        folder: It runs in; what it writes goes to files beside, not in it.
        env: Added to the environment.
    """
    out, err = _files(folder)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    with out.open("w") as out_file, err.open("w") as err_file:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, **_QUIET, "PYTHONPATH": path, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
    return Running(process, out, err)


def command(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Running:
    """The real command line: `lightning-distill WORDS`."""
    return program(["-m", "lightning_distill", *words], folder, env)


def fork(
    work: Callable[..., int], *arguments: Any, folder: Path, env: Mapping[str, str] | None = None
) -> Running:
    """`work(*arguments)` in that folder, in a process where the heavy imports are done; see tests.processes.

    Args:
        work: Returns the exit code; a function that can be imported.
        arguments: Of it.
        folder: It runs in.
        env: Added to the environment.
    """
    out, err = _files(folder)
    process = context().Process(
        target=_run, args=(out, err, folder, {**_QUIET, **(env or {})}, work, *arguments)
    )
    for file in (out, err):
        file.touch()
    process.start()
    return Running(_Forked(process), out, err)


def fork_command(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Running:
    """The same as `command`, sooner."""
    return fork(_command, words, folder=folder, env=env)


def _command(words: Sequence[str]) -> int:
    from lightning_distill.__main__ import main

    sys.argv = ["lightning-distill", *words]
    return main()


def _run(
    out: Path, err: Path, folder: Path, env: Mapping[str, str], work: Callable[..., int], *arguments: Any
) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for workers, as in a program of its own
    os.environ.update(env)
    os.chdir(folder)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.exit(work(*arguments))


def _files(folder: Path) -> tuple[Path, Path]:
    name = f"{folder.name}.{time.monotonic_ns()}"
    return folder.with_name(f"{name}.out"), folder.with_name(f"{name}.err")
