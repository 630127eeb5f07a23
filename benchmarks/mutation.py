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
import ast
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.processes import context  # noqa: E402

GROUPS: Final = {
    "losses": (["losses/*.py"], ["tests/losses"]),
    "clipping": (["clipping/*.py", "clipper.py"], ["tests/clipping", "tests/module"]),
    "cache": (["storage/*.py", "caching/*.py"], ["tests/storage", "tests/teachers", "tests/reliability"]),
    "manifest": (["data/manifest.py", "data/table_*.py", "data/cells.py"], ["tests/data"]),
    "checkpoint": (
        ["checkpoints/*.py", "cli/run_folder.py", "callbacks/save_on_signal.py"],
        ["tests/reliability", "tests/cli", "tests/callbacks"],
    ),
    "teacher guard": (
        ["teachers/base.py", "teachers/frozen.py", "checks.py", "taught.py", "guards/*.py"],
        ["tests/teachers", "tests/module", "tests/reliability"],
    ),
}
"""Group -> files of the package, and folders with the tests that may know them."""
ALWAYS: Final = {
    "cache": ("tests/storage/test_store.py", "tests/storage/test_damage.py", "tests/teachers/test_cached.py"),
    "manifest": ("tests/data/test_manifest.py", "tests/data/test_malformed.py", "tests/data/test_jsonl.py"),
    "teacher guard": ("tests/module/test_errors.py", "tests/module/test_teacher.py"),
    "checkpoint": (
        "tests/reliability/test_checkpoint_file.py",
        "tests/reliability/test_checkpoint_values.py",
    ),
}
"""Group -> tests that know its files without naming what they define."""
MOST_TESTS: Final = 4
"""Test files a mutant is run against: those that name most of what its file defines."""
SLOW: Final = re.compile(
    r"test_(signals|random_kills|ranks|secrets|process|logs|resume|other_runs|hostile|clip_matrix|distributed)\.py"
)
"""Tests that start processes and wait: they would take the night."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        group: Of its file.
        path: Of the file, from the root.
        operator: cosmic-ray's name.
        occurrence: Which of the places in the file where the operator applies.
        line: Of the place.
        change: Lines before and after.
        outcome: "killed", "killed by time", "survived", "not judged: ...", or "" before it was run.
        seconds: That took.
    """

    group: str
    path: str
    operator: str
    occurrence: int
    line: int
    change: str
    outcome: str = ""
    seconds: float = 0.0


class _Meaning(ast.NodeTransformer):
    """Drops what no running program can tell: annotations, docstrings, imports for type checkers."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        value = None if node.value is None else self.visit(node.value)
        return ast.copy_location(ast.AnnAssign(node.target, ast.Constant(None), value, node.simple), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return None
        self.generic_visit(node)
        return node


def meaning(source: str) -> str:
    """The code as far as it counts."""
    return ast.dump(_Meaning().visit(ast.parse(source)))


def places(group: str) -> dict[tuple[str, str, Any], list[tuple[str, int]]]:
    """Where something can be changed: (file, kind of change, place) -> operators that apply there."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    found: dict[tuple[str, str, Any], list[tuple[str, int]]] = {}
    files = [p for pattern in GROUPS[group][0] for p in sorted((ROOT / "lightning_distill").glob(pattern))]
    for path in files:
        nodes = list(ast_nodes(get_ast(path.read_text(encoding="utf-8"))))
        for name in (n for n in plugins.operator_names() if "Variable" not in n):  # those want arguments
            operator = plugins.get_operator(name)()
            spots = [spot for node in nodes for spot in operator.mutation_positions(node)]
            for occurrence, spot in enumerate(spots):
                key = (str(path.relative_to(ROOT)), name.split("_")[0], spot)
                found.setdefault(key, []).append((name, occurrence))
    return found


def drawn(group: str, number: int, rng: random.Random) -> list[Mutant]:
    """That many places at random, and one change for each that makes a difference."""
    found = places(group)
    chosen: list[Mutant] = []
    for path, kind, spot in rng.sample(list(found), len(found)):
        if len(chosen) == number:
            break
        operator, occurrence = rng.choice(found[path, kind, spot])
        source = (ROOT / path).read_text(encoding="utf-8")
        changed = mutated(source, operator, occurrence)
        if changed is not None and _counts(changed, source):
            chosen.append(Mutant(group, path, operator, occurrence, spot[0][0], _change(source, changed)))
    return chosen


def mutated(source: str, operator: str, occurrence: int) -> str | None:
    """The code with that change."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    try:
        found: str | None = mutate_code(source, plugins.get_operator(operator)(), occurrence)
    except AttributeError:  # cosmic-ray cannot replace an exception with a dotted name
        return None
    return found


def _counts(changed: str, source: str) -> bool:
    try:
        return meaning(changed) != meaning(source)
    except SyntaxError:
        return False


def _change(before: str, after: str) -> str:
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    return next((f"{a.strip()} -> {b.strip()}" for a, b in pairs if a != b), "lines removed")


@cache
def tests_of(path: str, group: str) -> tuple[str, ...]:
    """Test files that name what a file defines, those that name most first."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    words = [re.compile(rf"\b{re.escape(name)}\b") for name in names] + [
        re.compile(rf"\b{Path(path).stem}\b")
    ]
    found: Counter[str] = Counter()
    for folder in GROUPS[group][1]:
        for test in sorted((ROOT / folder).glob("test_*.py")):
            text = test.read_text(encoding="utf-8")
            named = sum(bool(word.search(text)) for word in words)
            if named and not SLOW.search(test.name):
                found[str(test.relative_to(ROOT))] = named
    # Contracts walk the shelf: they test every class, and name none.
    contracts = [f"{folder}/test_contract.py" for folder in GROUPS[group][1][:1]]
    there = [c for c in contracts if (ROOT / c).is_file()]
    named = [name for name, _ in found.most_common(MOST_TESTS)]
    return tuple(dict.fromkeys([*named, *there, *ALWAYS.get(group, ()), path]))


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
