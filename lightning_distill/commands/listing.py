"""`lightning-distill list`: what a config may name, read from the package's files without importing them."""

from __future__ import annotations

import argparse
import ast
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Final

from lightning_distill.catalogue import PACKAGE, Found, Part, find, is_abstract, lineage, public, tree
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.shelves import SHELVES
from lightning_distill.signatures import arguments, named_in

_MODULES: Final = ("module", "mutual", "model", "optimization", "learning_rates", "export")
"""Files beside the shelves that define what a config may name."""
_ROOTS: Final = ("LightningModule", "LightningDataModule", "Callback", "ModelCheckpoint", "LRScheduler")
"""What the command itself and Lightning take."""


def main(argv: Sequence[str]) -> int:
    """Print all parts, those of a shelf, or what one of them takes.

    Args:
        argv: Words after `list`.

    Returns:
        Exit code.

    Raises:
        ConfigError: If there is neither such a shelf nor such a part.
    """
    name: str | None = _parser().parse_args(list(argv)).name
    shelves = {"models": _parts(_MODULES)} | {shelf: _parts((shelf,)) for shelf in SHELVES}
    if name is None or name in shelves:
        print("\n\n".join(_shelf(shelf, shelves[shelf]) for shelf in shelves if name in (None, shelf)))
        return 0
    by_name = {part.name: part for parts in shelves.values() for part in parts}
    asked = find(name) if name.startswith(f"{PACKAGE}.") else by_name.get(name)
    if not isinstance(asked, Part):
        raise ConfigError(
            where="list",
            found=name,
            expected="a shelf, or the name of a part",
            fix=f"see lightning-distill list{nearest(name, [*shelves, *by_name])}",
        )
    print(_details(asked))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-distill list",
        description="What a config may name, by shelf; with a name, what that class takes.",
        allow_abbrev=False,
    )
    shelves = ", ".join(("models", *SHELVES))
    parser.add_argument("name", nargs="?", metavar="SHELF|CLASS", help=f"one of {shelves}, or a class")
    return parser


@cache
def _nameable() -> frozenset[Part]:
    """Concrete classes that the command takes, those that their constructors take, and so on."""
    every = [part for name in (*SHELVES, *_MODULES) for part in public(f"{PACKAGE}.{name}")]
    left = {part for part in every if isinstance(part.node, ast.ClassDef) and not is_abstract(part)}
    taken: set[Found] = {*_ROOTS}
    found: set[Part] = set()
    while more := {part for part in left if taken.intersection(lineage(part))}:
        found, left = found | more, left - more
        for argument in (argument for part in more for argument in arguments(part) or ()):
            named = named_in(argument.annotation, argument.owner.module)
            taken |= {kind for kind in named if isinstance(kind, Part)}
    return frozenset(found)


def _parts(modules: Sequence[str]) -> list[Part]:
    """What a config may name of some files: classes, and functions that make an object of the package."""
    found = []
    for part in (part for module in modules for part in public(f"{PACKAGE}.{module}")):
        made = () if isinstance(part.node, ast.ClassDef) else named_in(part.node.returns, part.module)
        makes = modules is _MODULES and any(isinstance(kind, Part) for kind in made)
        found += [part] if part in _nameable() or makes else []
    return found


def _shelf(shelf: str, parts: Sequence[Part]) -> str:
    about = ast.get_docstring(tree(f"{PACKAGE}.{shelf}")) or "Models, and how they are trained."
    width = max((len(part.name) for part in parts), default=0)
    lines = [f"  {part.name:{width}}  {summary(part)}" for part in sorted(parts, key=lambda part: part.name)]
    return "\n".join([f"{shelf}: {about}", *lines])


def summary(part: Part) -> str:
    """The first sentence about a part.

    Args:
        part: Of the package.

    >>> summary(find("lightning_distill.errors.SampleError"))
    'One sample cannot be read.'
    """
    paragraph = " ".join(part.doc.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:;])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]


def _details(part: Part) -> str:
    about, *_ = re.split(r"^(?:Args|Attributes|Raises|Returns):$", part.doc, maxsplit=1, flags=re.MULTILINE)
    home = find(f"{part.module.rpartition('.')[0]}.{part.name}")
    short = part.module.rpartition(".")[0] if home == part else part.module
    lines = [f"class_path: {short}.{part.name}", "", about.strip(), ""]
    taken = arguments(part)
    if not taken:
        return "\n".join([*lines, "no init_args" if taken == () else "init_args: see the class it extends"])
    lines.append("init_args:")
    for argument in taken:
        kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
        default = f" = {ast.unparse(argument.default)}" if argument.default else ""
        told = _told(part).get(argument.name) or _told(argument.owner).get(argument.name, "")
        lines.append(f"  {argument.name}{kind}{default}")
        lines += textwrap.wrap(told, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _told(part: Part) -> dict[str, str]:
    """What the docstring says about each argument."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n(?=[ ]))+)", part.doc, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        start = re.match(r" {4}(\w+)(?: \(.*?\))?: (.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name:
            found[name] += f" {line.strip()}"
    return found
