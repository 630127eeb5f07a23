"""Small faults for `mutation.py`: where they can be made, and which tests may know the place."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

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
