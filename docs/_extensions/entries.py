"""What is said of one class or function: its signature, text and tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prose import Link, entries, inline, markdown, sections

from lightning_distill.catalogue import Part, resolve
from lightning_distill.commands.listing import summary
from lightning_distill.signatures import arguments


@dataclass(frozen=True)
class Book:
    """What all pages know.

    Attributes:
        names: Name -> import path, of all that has a page.
        homes: The same by file and name, since two files may use one name.
        functions: Name -> what it is, of all functions of the shelves.
        configs: The folder of config files.
    """

    names: Mapping[str, str]
    homes: Mapping[tuple[str, str], str]
    functions: Mapping[str, Part]
    configs: Path

    def link(self, name: str) -> str | None:
        """Import path of what a name in backticks stands for."""
        return self.names.get(name.rpartition(".")[2].removesuffix("()"))

    def source(self, part: Part) -> str:
        """Where a class or function comes from, as its docstring or that of the function it names says."""
        found = re.search(r"^Sources?: (.+?)(?=\n\n|\Z)", part.doc, re.MULTILINE | re.DOTALL)
        text = " ".join(found[1].split()) if found else ""
        same = re.match(r"as `(\w+)`", text)
        return self.source(self.functions[same[1]]) if same and same[1] in self.functions else text


def is_class(part: Part) -> bool:
    """Whether a part is a class."""
    return isinstance(part.node, ast.ClassDef)


def entry(home: str, part: Part, book: Book) -> Iterator[str]:
    """What is said of a class or function, as blocks of Markdown.

    Args:
        home: Import path of where it is public.
        part: Which.
        book: What all pages know.
    """
    kind = "class" if is_class(part) else "function"
    yield f"```{{py:{kind}}} {home}.{part.name}{signature(part, book)}\n```"
    told = sections(part.doc)
    yield markdown(told[""], book.link)
    yield from _arguments(part, told, book.link)
    for title in ("Returns", "Yields"):
        if title in told:
            yield f"**{title}.** {inline(told[title], book.link)}"
    if "Raises" in told:
        yield "**Raises.**"
        yield "\n".join(
            f"- `{name}`: {inline(text, book.link)}" for name, text in entries(told["Raises"]).items()
        )
    if is_class(part):
        yield from _methods(home, part, book)


def signature(part: Part, book: Book) -> str:
    """What a class or function takes, as Python writes it.

    Args:
        part: Which.
        book: What all pages know.
    """
    taken = arguments(part)
    if taken is None:
        return ""
    texts = []
    for argument in taken:
        kind = f": {_kind(argument.annotation, argument.owner, book)}" if argument.annotation else ""
        equals = " = " if kind else "="
        default = f"{equals}{ast.unparse(argument.default)}" if argument.default else ""
        texts.append(f"{argument.name}{kind}{default}")
    returns = getattr(part.node, "returns", None)
    return f"({', '.join(texts)})" + (f" -> {_kind(returns, part, book)}" if returns else "")


def _kind(annotation: ast.expr, owner: Part, book: Book) -> str:
    """A type, with the whole path of what has a page: Sphinx links it, and shows the name alone."""
    text = ast.unparse(annotation)
    for name in {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}:
        found = resolve(owner.module, name)
        home = book.homes.get((found.module, found.name)) if isinstance(found, Part) else None
        if home:
            text = re.sub(rf"(?<![\w.]){name}\b", home, text)
    return text


def _arguments(part: Part, told: Mapping[str, str], link: Link) -> Iterator[str]:
    taken = arguments(part)
    own = {**entries(told.get("Attributes", "")), **entries(told.get("Args", ""))}
    rows = []
    for argument in taken or ():
        owner = entries(sections(argument.owner.doc).get("Args", ""))
        text = own.pop(argument.name, "") or owner.get(argument.name, "")
        kind = _cell(argument.annotation)
        default = _cell(argument.default) if argument.default else "required"
        rows.append(f"| `{argument.name}` | {kind} | {default} | {inline(text, link, cell=True)} |")
    if rows:
        yield "\n".join(["| argument | type | default | meaning |", "|---|---|---|---|", *rows])
    if own:
        rows = [f"| `{name}` | {inline(text, link, cell=True)} |" for name, text in own.items()]
        yield "\n".join(["| attribute | meaning |", "|---|---|", *rows])


def _cell(node: ast.expr | None) -> str:
    return "`" + ast.unparse(node).replace("|", r"\|") + "`" if node else ""


def _methods(home: str, part: Part, book: Book) -> Iterator[str]:
    """Own public methods and properties with a docstring: their first sentence."""
    for node in getattr(part.node, "body", ()):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or not ast.get_docstring(node):
            continue
        method = Part(part.module, node)
        takes = signature(method, book).replace("(self, ", "(").replace("(self)", "()").replace("(cls, ", "(")
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        kind = "property" if "property" in marks else "method"
        told = inline(summary(method), book.link)
        takes = "" if kind == "property" else takes
        yield f"```{{py:{kind}}} {home}.{part.name}.{node.name}{takes}\n{told}\n```"
