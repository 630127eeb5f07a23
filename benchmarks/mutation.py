"""How many small faults in the code the tests would find: the mutation score, on a seeded sample.

    python benchmarks/mutation.py --out benchmarks/results/mutation.json

A mutant is the code with one operator, number, condition or the like changed by cosmic-ray. It is killed if a
test fails or takes far longer than before, else it survives. Places are drawn first, then one of the changes
that can be made there; what differs in annotations only is left out. For each file, those test files are
run that name something the file defines, first those that name most. Each mutant gets a process with torch
already imported and a copy of the tree of its own. What survives is listed with its line, so that a test can
be written for it, or seen that nothing could tell it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutants import GROUPS, ROOT, Mutant, drawn, mutated, places, tests_of
from tests.processes import context


def run_tests(tree: Path, files: Sequence[str], limit: float) -> tuple[str, float]:
    """Whether one of these tests fails; the last file is the mutated one, for its doctests."""
    start = time.monotonic()
    process = context().Process(target=_tests, args=(str(tree), list(files)))
    process.start()
    process.join(limit)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    outcome = "killed by time" if late else "killed" if process.exitcode else "survived"
    return outcome, time.monotonic() - start


def _tests(tree: str, files: list[str]) -> None:
    os.setpgrp()
    os.chdir(tree)
    sys.path.insert(0, tree)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "benchmarks")]:
        del sys.modules[name]
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.set_start_method(None, force=True)  # the default again, as tests expect
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", *files]
        os._exit(int(pytest.main(words)))


def copied(folder: Path) -> Path:
    """A copy of what tests need."""
    for name in ("lightning_distill", "tests", "benchmarks", "configs", "docs", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    return folder


class Sample:
    """Runs mutants in turn, several at a time.

    Args:
        chosen: Mutants.
        minutes: After which no new one is begun.
        limits: Test files -> seconds they may take; filled as they are first run unchanged.
    """

    def __init__(self, chosen: Sequence[Mutant], minutes: float) -> None:
        self.left, self.done = list(chosen), list[Mutant]()
        self.end = time.monotonic() + 60 * minutes
        self.limits: dict[tuple[str, ...], float] = {}
        self.lock = Lock()

    def work(self, folder: Path) -> None:
        """Until there is nothing left or the time is up."""
        tree = copied(folder)
        while time.monotonic() < self.end:
            with self.lock:
                if not self.left:
                    return
                mutant = self.left.pop(0)
            self.done.append(self._judged(tree, mutant))
            last = self.done[-1]
            where = f"{last.path}:{last.line}"
            print(
                f"{len(self.done):4} {last.outcome:15}{last.seconds:6.0f} s  {where}  {last.change}",
                flush=True,
            )

    def _judged(self, tree: Path, mutant: Mutant) -> Mutant:
        files = tests_of(mutant.path, mutant.group)
        if files not in self.limits:
            outcome, seconds = run_tests(tree, files, 300)
            self.limits[files] = 30 + 3 * seconds if outcome == "survived" else 0.0
        if not self.limits[files]:
            return replace(mutant, outcome="not judged: its tests fail before anything is changed")
        target, source = tree / mutant.path, (ROOT / mutant.path).read_text(encoding="utf-8")
        changed = mutated(source, mutant.operator, mutant.occurrence)
        assert changed is not None
        target.write_text(changed, encoding="utf-8")
        try:
            outcome, seconds = run_tests(tree, files, self.limits[files])
        finally:
            target.write_text(source, encoding="utf-8")
        return replace(mutant, outcome=outcome, seconds=round(seconds, 1))


def report(done: Sequence[Mutant], seed: int, possible: dict[str, int]) -> dict[str, Any]:
    """Scores, and what survived."""
    drawn = len(done)

    def score(those: Sequence[Mutant]) -> dict[str, Any]:
        killed = sum(m.outcome.startswith("killed") for m in those)
        return {"mutants": len(those), "killed": killed, "score": round(killed / max(len(those), 1), 3)}

    survived = [asdict(m) for m in done if m.outcome == "survived"]
    done = [m for m in done if not m.outcome.startswith("not judged")]
    groups = {g: {**score([m for m in done if m.group == g]), "possible": possible[g]} for g in possible}
    return {"seed": seed, "drawn": drawn, **score(done), "groups": groups, "survived": survived}


def main() -> None:
    """Draw, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=30, help="mutants a group")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    groups = options.group or list(GROUPS)
    possible = {group: len(places(group)) for group in groups}
    chosen = [mutant for group in groups for mutant in drawn(group, options.each, rng)]
    print(f"{len(chosen)} mutants of {sum(possible.values())} places")
    rng.shuffle(chosen)
    sample = Sample(chosen, options.minutes)
    with TemporaryDirectory() as folder:
        threads = [Thread(target=sample.work, args=(Path(folder, str(n)),)) for n in range(options.processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    told = report(sample.done, options.seed, possible)
    print(json.dumps({k: v for k, v in told.items() if k != "survived"}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
