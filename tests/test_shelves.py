"""Adding one thing takes one file and one line: what keeps that line from being forgotten."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.shelves import FORMULAS, SHELVES, concrete, modules, package, public

ROOT = Path(__file__).parents[1]
CLASSES = [(shelf, cls) for shelf in SHELVES for cls in public(shelf)]
FUNCTIONS = [(shelf, f) for shelf in FORMULAS for f in public(shelf, inspect.isfunction)]


def named(pairs: list[tuple[str, Any]]) -> Any:
    return pytest.mark.parametrize(("shelf", "thing"), pairs, ids=[f"{s}.{t.__name__}" for s, t in pairs])


@named(CLASSES + FUNCTIONS)
def test_public_names_are_exported(shelf: str, thing: Any) -> None:
    assert thing.__name__ in package(shelf).__all__, f"add {thing.__name__} to the __init__ of {shelf}"
    assert getattr(package(shelf), thing.__name__) is thing


@pytest.mark.parametrize("shelf", SHELVES)
def test_all_holds_nothing_else(shelf: str) -> None:
    names = package(shelf).__all__
    assert len(names) == len(set(names))
    there = [*public(shelf), *public(shelf, inspect.isfunction)]
    assert set(names) <= {thing.__name__ for thing in there}


@named(CLASSES + FUNCTIONS)
def test_public_names_have_a_docstring(shelf: str, thing: Any) -> None:
    assert thing.__doc__
    assert thing.__doc__.strip()


@named(
    [(s, c) for s in FORMULAS for c in concrete(s)]
    + [(s, f) for s, f in FUNCTIONS if not f.__module__.endswith(".base")]
)
def test_formulas_say_where_they_come_from(shelf: str, thing: Any) -> None:
    assert "Source" in thing.__doc__, f"{thing.__name__}: add a line 'Source: paper, section'"


@pytest.mark.parametrize("shelf", SHELVES)
def test_constructors_swallow_nothing(shelf: str) -> None:
    for cls in concrete(shelf):
        kinds = [p.kind for p in inspect.signature(cls).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds, cls
        assert len(kinds) < 9, cls


@pytest.mark.parametrize("shelf", SHELVES)
def test_only_the_base_is_shared_inside_a_shelf(shelf: str) -> None:
    own = f"lightning_distill.{shelf}."
    for module in modules(shelf):
        homes = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
        mine = {home for home in homes if home.startswith(own) and not home.endswith("base")}
        foreign = mine - {module.__name__}
        assert not foreign, f"{module.__name__} uses {foreign}"


def test_floors_of_the_house() -> None:
    """The import-linter contracts of pyproject.toml."""
    lint = "from importlinter.cli import lint_imports_command as f; f()"
    done = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
