"""The blocks of code of a page in Markdown, in order."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = ("lightning-distill", "make", "python", "pip", "torchrun", "srun")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """Code of a page.

    Attributes:
        line: Where it begins, from 1.
        language: Of its fence; `indented` without one.
        text: What is in it.
        reason: Why it is not run; empty where it is.
    """

    line: int
    language: str
    text: str
    reason: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of its command lines, without what is told beside them."""
        return list(_commands(self.text.replace("\\\n", " ").splitlines()))

    @property
    def kind(self) -> str:
        """`python`, `yaml`, `commands` or `text`."""
        if self.language in ("python", "yaml"):
            return self.language
        if self.language in ("bash", "indented") and self.commands:
            return "commands"
        return "yaml" if self.language == "indented" and "class_path:" in self.text else "text"


def pages() -> list[Path]:
    """README and all of docs/ that is written by hand."""
    made = ROOT / "docs" / "reference"
    written = [p for p in (ROOT / "docs").rglob("*.md") if made not in p.parents]
    return [ROOT / "README.md", *sorted(written)]


def blocks(page: Path) -> list[Block]:
    """All of a page."""
    return list(found(page.read_text(encoding="utf-8").splitlines()))


def found(lines: Sequence[str]) -> Iterator[Block]:
    """All blocks among the lines of a page."""
    at, reason = 0, ""
    while at < len(lines):
        line, start = lines[at], at
        fence = re.match(r"( *)```(\w*)(.*)$", line)
        if fence:
            at += 1
            while lines[at].strip() != "```":
                at += 1
            body = "\n".join(lines[start + 1 : at])
            if not fence[3].startswith("{"):
                yield Block(start + 1, fence[2] or "text", textwrap.dedent(body), reason)
            at += 1
        elif line.startswith("    ") and (at == 0 or _may_precede(lines[at - 1])):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            yield Block(
                start + 1, "indented", textwrap.dedent("\n".join(lines[start:at])).strip("\n"), reason
            )
        else:
            at += 1
            marked = _NOT_RUN.fullmatch(line.strip())
            reason = marked[1] if marked else reason if not line.strip() else ""
            continue
        reason = ""


def _may_precede(line: str) -> bool:
    """An indented line after text goes on with a paragraph or an item."""
    return not line.strip() or line.startswith("#")


def _commands(lines: Sequence[str]) -> Iterator[list[str]]:
    for line in lines:
        plain = re.split(r"\s{3,}|\s+#\s", line.strip())[0]
        words = plain.split()
        while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
            words = words[1:]
        if words and words[0] in COMMANDS:
            yield shlex.split(plain)
