"""The package's own classes and functions, read from its source files: nothing is imported.

A file says all that a listing or a check of names needs, and reading it takes milliseconds, where importing
it loads torch.
"""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

PACKAGE: Final = __name__.partition(".")[0]
_HERE: Final = Path(__file__).parent
_BARE: Final = ("ABC", "Generic", "Module", "Protocol", "object")
"""Bases from elsewhere that define nothing which ours leave open."""


@dataclass(frozen=True)
class Part:
    """A class or function of the package.

    Attributes:
        module: Import path of the file that defines it.
        node: Its definition.
    """

    module: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @property
    def doc(self) -> str:
        """Its docstring."""
        return ast.get_docstring(self.node) or ""


Found: TypeAlias = Part | str
"""Of the package; or the last name of something else, about which no more is known."""


def find(dotted: str) -> Found | None:
    """What an import path of the package leads to.

    Args:
        dotted: Such as `lightning_distill.losses.LogitKD`.

    Returns:
        None only where it is certain that there is no such name.

    >>> find("lightning_distill.losses.LogitKD").module
    'lightning_distill.losses.logit_kd'
    >>> find("lightning_distill.losses.LogitKDD") is None
    True
    """
    module, _, name = dotted.rpartition(".")
    if not module:
        return name if name == PACKAGE else None
    if _file(module) is None:
        return None if find(module) is None else name
    return resolve(module, name) or (None if _file(dotted) is None else name)


def resolve(module: str, name: str) -> Found | None:
    """What a name stands for in a file of the package.

    Args:
        module: Import path of the file.
        name: As it is used there.
    """
    bound = _bound(module)
    if name not in bound:
        # A `__getattr__` serves names that stand as text in its file.
        texts = (n.value for n in ast.walk(tree(module)) if isinstance(n, ast.Constant))
        return name if "__getattr__" in bound and name in texts else None
    found = bound[name]
    if isinstance(found, ast.ClassDef | ast.FunctionDef):
        return Part(module, found)
    return (find(found) if found.partition(".")[0] == PACKAGE else found.rpartition(".")[2]) or name


@cache
def _file(module: str) -> Path | None:
    top, *rest = module.split(".")
    path = _HERE.joinpath(*rest)
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((f for f in files if f.is_file()), None) if top == PACKAGE else None


@cache
def tree(module: str) -> ast.Module:
    """The syntax of a file of the package."""
    path = _file(module)
    text = "" if path is None else path.read_text(encoding="utf-8")
    collects = gc.isenabled()
    gc.disable()  # all that is made here is kept; looking for garbage in it took a third of the time
    try:
        return ast.parse(text)
    finally:
        if collects:
            gc.enable()


@cache
def _bound(module: str) -> dict[str, ast.ClassDef | ast.FunctionDef | str]:
    """Names of a file: their definition, or where they are imported from."""
    found: dict[str, ast.ClassDef | ast.FunctionDef | str] = {}
    for node in _statements(tree(module).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names}
        else:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            found |= {name.id: name.id for name in stored}
    return found


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a file, with those it makes under a condition."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            handlers = [n for h in getattr(node, "handlers", ()) for n in h.body]
            yield from _statements([*node.body, *node.orelse, *handlers, *getattr(node, "finalbody", ())])
        else:
            yield node


def public(module: str) -> list[Part]:
    """Classes and functions that a file offers: those of its `__all__`, else those it defines.

    Args:
        module: Import path of the file.
    """
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = [str(e.value) for e in getattr(node.value, "elts", []) if isinstance(e, ast.Constant)]
            break
    else:
        names = [
            name
            for name, node in _bound(module).items()
            if not isinstance(node, str) and not name.startswith("_")
        ]
    found = [resolve(module, name) for name in names]
    return [part for part in found if isinstance(part, Part)]


@cache
def lineage(part: Part) -> tuple[Found, ...]:
    """A class and its bases, nearest first, shared ones after all that share them."""
    found: list[Found] = [part]
    for base in getattr(part.node, "bases", []):
        name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        parent = (resolve(part.module, name) if "." not in name else None) or name.rpartition(".")[2]
        found += lineage(parent) if isinstance(parent, Part) else [parent]
    return tuple(reversed(dict.fromkeys(reversed(found))))


def is_abstract(part: Part) -> bool:
    """Whether a class leaves something to its subclasses."""
    seen: set[str] = set()
    for step in lineage(part):
        if isinstance(step, str) and step not in _BARE:
            return False  # it may define what the bases after it leave open: Python lets the first one win
        for node in step.node.body if isinstance(step, Part) else ():
            defined = {n.id for n in _targets(node) if isinstance(n, ast.Name)}
            if isinstance(node, ast.FunctionDef):
                marks = [ast.unparse(d) for d in node.decorator_list]
                if node.name not in seen and any(mark.endswith("abstractmethod") for mark in marks):
                    return True
                defined.add(node.name)
            seen |= defined
    return False


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) and node.value is not None else []


@cache
def homes() -> dict[str, tuple[str, ...]]:
    """All classes of the package by name, private ones too, with the files that define one."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(_HERE.rglob("*.py")):
        parts = file.relative_to(_HERE).with_suffix("").parts
        module = ".".join((PACKAGE, *(part for part in parts if part != "__init__")))
        for name in re.findall(r"^ *class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            found[name] = (*found.get(name, ()), module)
    return found
