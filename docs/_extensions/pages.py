"""Reference pages as Markdown, made of the package's source files without importing them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from entries import Book, entry, is_class
from prose import inline, markdown, sections

from lightning_distill.catalogue import PACKAGE, Part, is_abstract, public
from lightning_distill.commands.listing import summary

_MATHEMATICS: Final = {
    "balancing": ("/knowledge.md", "Knowledge"),
    "clipping": ("/clipping.md", "Clipping"),
    "data": ("/data.md", "Data"),
    "feature_clipping": ("/clipping.md", "Clipping"),
    "fusion": ("/fusion.md", "Fusion"),
    "gradient_balancing": ("/clipping.md", "Clipping"),
    "heads": ("/fusion.md", "Fusion"),
    "losses": ("/knowledge.md", "Knowledge"),
    "tasks": ("/data.md", "Data"),
    "teachers": ("/knowledge.md", "Knowledge"),
    "units": ("/choosing-the-clip-range.md", "Choosing the range of a clip"),
    "validators": ("/cross-domain.md", "Into a domain that has no labels"),
}
"""Shelf -> the page with its notation and when to take which."""

_APART: Final = "---\norphan: true\n---"
"""Not in the sidebar: 200 more entries on each page took four fifths of the time to build the site."""


def class_page(shelf: str, part: Part, book: Book) -> str:
    """The page of a class of a shelf.

    Args:
        shelf: Where it stands.
        part: The class.
        book: What all pages know.
    """
    blocks = [_APART, f"# {part.name}", f"On the shelf [{shelf}](index.md)."]
    blocks += [*entry(f"{PACKAGE}.{shelf}", part, book), *_formulas(part, book)]
    found = _configs(shelf, part.name, book)
    for number, file in enumerate(found):
        blocks += ["## In a config"] if not number else []
        blocks.append(f"As `configs/{shelf}/{file.name}` has it:")
        blocks.append(f"```yaml\n{file.read_text(encoding='utf-8').strip()}\n```")
    if not is_abstract(part):
        blocks += ["In the terminal:", f"```bash\nlightning-distill list {part.name}\n```"]
    if shelf in _MATHEMATICS:
        path, title = _MATHEMATICS[shelf]
        blocks.append(f"Notation, and when to take which: [{title}]({path}).")
    return "\n\n".join(blocks) + "\n"


def _formulas(part: Part, book: Book) -> Iterator[str]:
    """What a class says of itself by the name of a function: that function's text."""
    told = re.sub(r"^Args:.*", "", part.doc, flags=re.MULTILINE | re.DOTALL) + f"`{_as(part)}`"
    for name in dict.fromkeys(re.findall(r"`(\w+)`", told)):
        if name in book.functions:
            yield f"## The formula: {inline(name)}"
            yield markdown(sections(book.functions[name].doc)[""], book.link)


def _as(part: Part) -> str:
    """The function that has the source of a class."""
    found = re.search(r"^Sources?: as `(\w+)`", part.doc, re.MULTILINE)
    return found[1] if found else ""


def _configs(shelf: str, name: str, book: Book) -> list[Path]:
    """The config files that are about a class: those that do not name it deep inside another."""
    outer = re.compile(rf"^ {{0,2}}class_path: (?:[\w.]+\.)?{name}$", re.MULTILINE)
    files = sorted((book.configs / shelf).glob("*.yaml"))
    return [file for file in files if outer.search(file.read_text(encoding="utf-8"))]


def functions_page(shelf: str, parts: Sequence[Part], book: Book) -> str:
    """The page of a shelf's functions.

    Args:
        shelf: Where they stand.
        parts: The functions.
        book: What all pages know.
    """
    blocks = [
        _APART,
        f"# Functions of {shelf}",
        f"On the shelf [{shelf}](index.md). The mathematics without a class around it.",
    ]
    for part in sorted(parts, key=lambda part: part.name):
        blocks += [f"## {part.name}", *entry(f"{PACKAGE}.{shelf}", part, book)]
    return "\n\n".join(blocks) + "\n"


def shelf_page(shelf: str, about: str, parts: Sequence[Part], book: Book) -> str:
    """The overview of a shelf: a table, and the pages below it.

    Args:
        shelf: Which.
        about: Its package's docstring.
        parts: All of it.
        book: What all pages know.
    """
    classes = sorted((p for p in parts if is_class(p)), key=lambda p: p.name)
    blocks = [f"# {shelf}", inline(about)]
    for title, bases in (("## What a config may name", False), ("## Bases to extend", True)):
        rows = [part for part in classes if is_abstract(part) == bases]
        if rows:
            blocks += [title, _overview(rows, book)]
    if len(classes) < len(parts):
        blocks.append("The mathematics without a class around it: [functions](functions.md).")
    return "\n\n".join(blocks) + "\n"


def _overview(parts: Sequence[Part], book: Book) -> str:
    lines = ["| name | what it is | source |", "|---|---|---|"]
    for part in parts:
        source = re.split(r"(?<=[\w)])[.;] ", book.source(part).rstrip("."))[0]
        told = inline(source, book.link, cell=True)
        lines.append(f"| [{part.name}]({part.name}.md) | {_first(part, book)} | {told} |")
    return "\n".join(lines)


def _first(part: Part, book: Book) -> str:
    return inline(summary(part).rstrip(":"), book.link, cell=True)


def module_page(module: str, about: str, parts: Sequence[Part], book: Book) -> str:
    """The page of a public module.

    Args:
        module: Import path.
        about: Its docstring.
        parts: What it offers.
        book: What all pages know.
    """
    blocks = [f"# {module}", markdown(sections(about)[""], book.link)]
    for part in parts:
        blocks += [f"## {part.name}", *entry(module, part, book)]
    return "\n\n".join(blocks) + "\n"


def offered(module: str) -> list[Part]:
    """What a module offers: all its files' where it is a package without names of its own.

    Args:
        module: Import path.
    """
    return [part for part in public(module) if not part.name.startswith("_")]
