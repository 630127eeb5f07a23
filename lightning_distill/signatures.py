"""What the package's classes and functions take, read from its source files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lightning_distill.catalogue import Found, Part, lineage, resolve

_CONTAINERS: Final = ("dict", "Mapping", "list", "Sequence")
_HARMLESS: Final = ("object", "ABC", "Generic", "Protocol")
"""Bases that take no arguments."""


@dataclass(frozen=True)
class Argument:
    """What a constructor or function takes.

    Attributes:
        name: With its stars, where it takes any number.
        annotation: Its type, as the file has it.
        default: As the file has it; None if it must be given.
        owner: What declares it, which may be a base class.
    """

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    owner: Part


def arguments(part: Part) -> tuple[Argument, ...] | None:
    """What a class or function takes.

    Args:
        part: Which.

    Returns:
        None where it cannot be told from the package's files.

    >>> from lightning_distill.catalogue import find
    >>> [a.name for a in arguments(find("lightning_distill.losses.LogitKD"))]
    ['temperature']
    """
    if isinstance(part.node, ast.FunctionDef):
        return tuple(_parameters(part, part.node))
    for step in lineage(part):
        if isinstance(step, str):
            if step in _HARMLESS:
                continue
            return None
        own = {node.name: node for node in step.node.body if isinstance(node, ast.FunctionDef)}
        marks = [ast.unparse(mark).partition("(")[0] for mark in step.node.decorator_list]
        if "__new__" in own or step.node.keywords or set(marks) - {"dataclass"}:  # type: ignore[union-attr]
            return None
        if "__init__" in own:
            return tuple(_parameters(step, own["__init__"]))[1:]
        if marks:
            return tuple(_fields(step))
    return ()


def _parameters(owner: Part, node: ast.FunctionDef) -> Iterator[Argument]:
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    for argument, default in zip(plain, [*missing, *given.defaults], strict=True):
        yield Argument(argument.arg, argument.annotation, default, owner)
    if given.vararg:
        yield Argument(f"*{given.vararg.arg}", given.vararg.annotation, None, owner)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield Argument(argument.arg, argument.annotation, default, owner)
    if given.kwarg:
        yield Argument(f"**{given.kwarg.arg}", given.kwarg.annotation, None, owner)


def _fields(part: Part) -> list[Argument]:
    """Of a dataclass, those of its bases first."""
    found: dict[str, Argument] = {}
    for step in reversed(lineage(part)):
        for node in step.node.body if isinstance(step, Part) else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                told = ast.unparse(node)
                if "ClassVar" not in told and "init=False" not in told:
                    name = node.target.id
                    found[name] = Argument(name, node.annotation, node.value, part)
    return list(found.values())


def named_in(annotation: ast.expr | None, module: str) -> Iterator[Found]:
    """The classes a type speaks of; of a function that makes something, only what it makes.

    Args:
        annotation: The type.
        module: Import path of the file it stands in.
    """
    if isinstance(annotation, ast.Name):
        yield resolve(module, annotation.id) or annotation.id
    elif isinstance(annotation, ast.Attribute):
        yield annotation.attr
    elif isinstance(annotation, ast.BinOp):
        yield from named_in(annotation.left, module)
        yield from named_in(annotation.right, module)
    elif isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        for item in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
            yield from named_in(item, module)


def takes_many(annotation: ast.expr | None) -> bool:
    """Whether a type is a list of something, or something by name, or None, and nothing else.

    Args:
        annotation: The type.
    """
    if isinstance(annotation, ast.BinOp):
        sides = [side for side in (annotation.left, annotation.right) if not isinstance(side, ast.Constant)]
        return all(map(takes_many, sides))
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in _CONTAINERS
