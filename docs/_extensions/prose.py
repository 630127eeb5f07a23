"""Docstrings of the package as Markdown.

They are plain text with formulas. Nothing in them is meant as mark-up but names in backticks, the sections
that Google's style names, and doctests. So all else is escaped, and what stands apart is kept apart.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Final

_SECTIONS: Final = ("Args", "Attributes", "Raises", "Returns", "Yields")
_MARKS: Final = re.compile(r"([\\*_<>\[\]$|~{}&^#])")
_FORMULA: Final = re.compile(r"[^\s.,:]{1,16}( \([^)]*\)| [a-z]{1,2}\b)? (=|<-|~) \S")
_SENTENCE: Final = re.compile(r"(?:[A-Z][a-z]+|A) [a-z]")
_ARXIV: Final = re.compile(r"\b(\d{4}\.\d{4,5})\b")
_ITEM: Final = re.compile(r"^(?:[-*]|\d+\.) ")

Link = Callable[[str], str | None]
"""Import path of what a name in backticks stands for; None if it is not ours."""


def no_link(name: str) -> None:
    """No name is linked."""
    return


def inline(text: str, link: Link = no_link, *, cell: bool = False) -> str:
    r"""A run of text: all that Markdown would read as mark-up is escaped, code is kept.

    Args:
        text: Of a docstring.
        link: What names in backticks stand for.
        cell: For a cell of a table.

    >>> inline("w_r * `x_m`")
    'w\\_r \\* `x_m`'
    """
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    found = [_code(part, link, cell) if i % 2 else _MARKS.sub(r"\\\1", part) for i, part in enumerate(parts)]
    return re.sub(r"^([-+]|\d+\.)(?= )", r"\\\1", "".join(found))


def _code(text: str, link: Link, cell: bool) -> str:
    target = link(text.strip("`"))
    if target:
        return f"{{py:obj}}`{text.strip('`')} <{target}>`"
    return text.replace("|", r"\|") if cell else text


def sections(doc: str) -> dict[str, str]:
    """The parts of a docstring: `""` is the text, the others are Google's sections, dedented.

    Args:
        doc: As `inspect.cleandoc` leaves it.
    """
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in doc.splitlines():
        start = re.fullmatch(rf"({'|'.join(_SECTIONS)}):", line)
        if start:
            name = start[1]
            found.setdefault(name, [])
            continue
        if name and line and not line.startswith(" "):
            name = ""
            found[""].append("")
        found[name].append(line)
    return {key: textwrap.dedent("\n".join(lines)).strip("\n") for key, lines in found.items()}


def entries(section: str) -> dict[str, str]:
    """What a section says of each name.

    Args:
        section: One of `sections`.
    """
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r"(\*{0,2}[\w., ]+?)(?: \([^:]*\))?:(?: (.*))?$", line)
        if start:
            name, found[start[1]] = start[1], start[2] or ""
        elif name:
            found[name] += f" {line.strip()}"
    return found


def is_formula(paragraph: str) -> bool:
    """Whether a paragraph of text is a formula rather than a sentence.

    Args:
        paragraph: Its lines.

    >>> is_formula("x = sum_m w_m x_m + b"), is_formula("The mean of all losses.")
    (True, False)
    """
    if "`" in paragraph or len(re.findall(r"\b[a-z]{4,}\b", paragraph)) > 8:
        return False
    signs = len(re.findall(r" [*/+=~-] |\^|\|\||<-", paragraph))
    return bool(_FORMULA.match(paragraph)) or (signs > 2 and not _SENTENCE.match(paragraph))


def markdown(text: str, link: Link = no_link) -> str:
    """The text of a docstring.

    Args:
        text: The part `""` of `sections`.
        link: What names in backticks stand for.
    """
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_block(block, link) for block in blocks if block.strip())


def _block(block: str, link: Link) -> str:
    lines = block.splitlines()
    source = re.match(r"Sources?: ", block)
    if source:
        told = inline(block[source.end() :], link)
        told = _ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", told)
        return f"**Source.** {told}"
    if lines[0].startswith(">>>"):
        return _fence(block, "python")
    if all(line.startswith("  ") for line in lines) or is_formula(block) or lines[0].startswith("|"):
        return _fence(textwrap.dedent(block), "text")
    if any(_ITEM.match(line) for line in lines):
        return _list(lines, link)
    return inline(block, link)


def _fence(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"


def _list(lines: list[str], link: Link) -> str:
    """A paragraph with items: what stands before the first, and each of them."""
    items = [""]
    for line in lines:
        items = [*items, line] if _ITEM.match(line) else [*items[:-1], f"{items[-1]} {line.strip()}"]
    before, *rest = items
    told = [f"- {inline(_ITEM.sub('', item), link)}" for item in rest]
    return "\n".join([*([inline(before, link), ""] if before.strip() else []), *told])
