"""What is told about a mistake in a config: the same words whoever finds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_distill.cli import names
from lightning_distill.cli.words import config_files
from lightning_distill.errors import ConfigError, nearest


@dataclass(frozen=True)
class Paragraphs:
    """Errors about one place of a config.

    Attributes:
        words: The command line.
        path: Keys that lead to the place, without init_args.
    """

    words: Sequence[str]
    path: Sequence[str] = ()

    def error(
        self, word: str, found: object, expected: object, fix: object, is_key: bool = True
    ) -> ConfigError:
        """One about a word of the config.

        Args:
            word: Key or value; empty where there is none.
            found: What was there.
            expected: What should have been there.
            fix: What to do about it.
            is_key: Whether the word goes on with the path.
        """
        path = ".".join(self.path)
        if is_key and word.isidentifier() and not path.endswith(word) and path:
            path = f"{path}.{word}"
        where = ", ".join(part for part in (self._place(word), path) if part)
        return ConfigError(where=where, found=found, expected=expected, fix=fix)

    def no_argument(self, word: str, owner: str, known: Sequence[str]) -> ConfigError:
        """A class does not take this.

        Args:
            word: The key.
            owner: Name of the class.
            known: What it takes.
        """
        return self.error(
            word,
            f"the key {word!r}, which {owner} does not have",
            f"one of {names.some(known)}",
            f"correct or remove it{nearest(word, known)}",
        )

    def no_key(self, key: str, known: Sequence[str]) -> ConfigError:
        """The command does not have this key.

        Args:
            key: The key, dotted.
            known: Keys of the command, dotted.
        """
        tops = sorted({k.partition(".")[0] for k in known})
        top = key.partition(".")[0]
        if top in tops:
            about = (f"a key of {top}", f"correct or remove it{nearest(key, known)}")
            return self.error(key.rpartition(".")[2], repr(key), *about)
        about = (f"one of {names.some(tops, 20)}", f"correct or remove it{nearest(top, tops)}")
        return self.error(top, repr(key), *about)

    def no_class(self, name: str, wanted: Sequence[str], known: Sequence[str]) -> ConfigError:
        """There is no such class.

        Args:
            name: As given.
            wanted: Base classes of what could stand there.
            known: Others that could.
        """
        module, _, last = name.rpartition(".")
        find = (
            "give a module that Python finds (a file in the current folder: PYTHONPATH=. before the command)"
        )
        find = find if module else "give the full import path"
        return self.error(
            last,
            repr(name),
            (f"{names.some(known)} or another " if known else "a ") + (" or ".join(wanted) or "class"),
            f"correct it, or {find}{nearest(last, [*known, *wanted])}",
            is_key=False,
        )

    def not_allowed(self, name: str, packages: Sequence[str]) -> ConfigError:
        """A class of a package that a config may not name.

        Args:
            name: Its import path.
            packages: Those that it may name.
        """
        return self.error(
            name,
            repr(name),
            f"a class of the packages that a config may name: {', '.join(packages)}",
            f"if you trust it, add --allow {name.partition('.')[0]}: what a config names is imported and run",
            is_key=False,
        )

    def no_yaml(self, found: str, line: object) -> ConfigError:
        """A file is not YAML.

        Args:
            found: What is wrong with it.
            line: Number of the line.
        """
        fix = f"look at line {line} and the one above"
        return self.error("", f"YAML that cannot be read: {found}", "YAML", fix)

    def _place(self, word: str) -> str:
        """File and line, or the command line, as far as that is certain."""
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        if word and any(whole.search(given) for given in self.words[1:]):
            return "command line"
        files = config_files(self.words)
        hits = [f"{f}, line {i}" for f in files for i, line in _lines(f) if word and whole.search(line)]
        if len(hits) == 1:
            return hits[0]
        return str(files[0]) if len(files) == 1 else "command line" if not files else ""


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        yield number, line.partition("#")[0]
