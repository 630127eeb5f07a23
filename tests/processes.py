"""Functions in processes of their own, each a copy of one process that has imported torch and run nothing.

A new interpreter spends seconds on imports, and a copy of the tests' own process cannot train: torch refuses
a backward pass in a copy of a process that has had one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

HEAVY = ("torch", "lightning.pytorch.cli", "transformers", "timm", "wandb", "pyarrow", "scipy", "cv2")
"""What the library and the tests import, without the library."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its second process by fork")


def context() -> Any:
    """Starts processes with the heavy imports done and without this library; anew where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(HEAVY))
    return found


def run_apart(work: Callable[..., None], *arguments: Any, seconds: float = 200) -> None:
    """Wait for `work(*arguments)` in a process of its own; its traceback is that of the failure here."""
    with TemporaryDirectory() as folder:
        said = Path(folder, "said")
        process = context().Process(target=_work, args=(said, work, *arguments))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            pytest.fail(f"{work.__module__}.{work.__name__} takes more than {seconds} s")
        output = said.read_text() if said.exists() else ""
        assert process.exitcode == 0, f"exit code {process.exitcode}\n{output[-3000:]}"


def _work(said: Path, work: Callable[..., None], *arguments: Any) -> None:
    with said.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            raise SystemExit(1) from None
