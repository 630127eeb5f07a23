"""What can be told wrong in a config before torch is imported: names that do not exist.

Whatever is not certain is left to the parser of the command, which knows all and takes seconds to load.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from lightning_distill.catalogue import (
    PACKAGE,
    Found,
    Part,
    find,
    homes,
    is_abstract,
    lineage,
    public,
    resolve,
)
from lightning_distill.cli.paragraphs import Paragraphs
from lightning_distill.cli.plain import check_packages, content
from lightning_distill.errors import nearest
from lightning_distill.shelves import SHELVES
from lightning_distill.signatures import Argument, arguments, named_in, takes_many

_KEYS: Final = (
    "cache",
    "checkpoint",
    "ckpt_path",
    "config",
    "data",
    "early_stopping",
    "model",
    "run",
    "seed_everything",
    "trainer",
    "weights_only",
)
_MORE: Final = {
    "fit": ("force", "overwrite", "resume"),
    "validate": ("verbose",),
    "test": ("verbose",),
    "predict": ("output", "return_predictions"),
}
"""Keys that only one command has; those without a parser of their own read configs of `fit`."""
_KNOWN: Final = (PACKAGE, "torch", "lightning", "torchmetrics")
"""Packages that bring no subclass of ours."""
_VALUES: Final = {"str", "int", "float", "bool", "Path"}
_LIGHTNINGS: Final = {"LightningModule", "LightningDataModule"}
"""Bases that Lightning has hardly a concrete subclass of."""


def check_names(words: Sequence[str]) -> None:
    """Find mistyped keys and classes in the configs that a command line names.

    Args:
        words: The command line, its command first.

    Raises:
        ConfigError: If a key, a class of this package or an argument of one does not exist, a class is of a
            package that a config may not name, or a file is no YAML. Files that cannot be read are left to
            the command.
    """
    configs = [config for file in _files(words) if isinstance(config := content(file, words), dict)]
    guesses = not any(_may_bring_classes(part) for part in (configs, list(words[1:])))
    for config in configs:
        _check_keys(config, words)
        check_packages(config, words)
    module = find(f"{PACKAGE}.module.DistillationModule")
    for config in configs:
        check = _Names(words, guesses)
        check.value(config.get("model"), _Place(("model",), (module or "", "LightningModule")))
        check.value(config.get("data"), _Place(("data",), ("LightningDataModule",)))
        trainer = config.get("trainer")
        if isinstance(trainer, dict):
            check.value(trainer.get("callbacks"), _Place(("trainer", "callbacks"), ("Callback",), many=True))


def keys(command: str) -> tuple[str, ...]:
    """Keys that a config of a command may have, besides those of the parser itself.

    Args:
        command: Its name.
    """
    return (*_KEYS, *_MORE.get(command, _MORE["fit"]))


def _check_keys(config: Mapping[Any, Any], words: Sequence[str]) -> None:
    known = {*_KEYS, *_MORE, *(key for more in _MORE.values() for key in more)}
    for key in config:
        if isinstance(key, str) and _plain(key) and key not in known:
            raise Paragraphs(words).no_key(key, keys(words[0]))


def _files(words: Sequence[str]) -> list[Path]:
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("-c", "--config"):
            found.append(Path(value or following))
    return found


def _plain(key: str) -> bool:
    """Not one that the parser reads in a way of its own."""
    return "." not in key and not key.startswith("__")


def _may_bring_classes(value: Any) -> bool:
    """Whether other packages or files are named, so that a short name may be one of theirs."""
    if isinstance(value, dict):
        return any(map(_may_bring_classes, value.values()))
    if isinstance(value, list):
        return any(map(_may_bring_classes, value))
    if not isinstance(value, str) or value in ("-c", "--config"):
        return False
    given = value.partition("=")[2] if value.startswith("--") else value
    path = re.search(r"([A-Za-z_]\w*)(\.\w+)*\.[A-Z]\w*", given)
    return ".demos." in given or (path is not None and path[1] not in _KNOWN)


@dataclass(frozen=True)
class _Place:
    """Where a config may name classes.

    Attributes:
        path: Keys that lead there, without init_args.
        kinds: What may stand there.
        filled: How many of their first arguments are given by whoever makes them.
        many: Whether several stand here, in a list or by name.
    """

    path: tuple[str, ...]
    kinds: tuple[Found, ...]
    filled: int = 0
    many: bool = False

    @property
    def own(self) -> list[Part]:
        """Kinds of this package."""
        return [kind for kind in self.kinds if isinstance(kind, Part)]

    def inside(self, argument: Argument) -> _Place:
        """The place of an argument of a class that stands here."""
        kinds = tuple(named_in(argument.annotation, argument.owner.module))
        lists = (n for n in ast.walk(argument.annotation or ast.Pass()) if isinstance(n, ast.List))
        filled = max((len(n.elts) for n in lists), default=0)
        return _Place((*self.path, argument.name), kinds, filled, takes_many(argument.annotation))

    def fits(self, part: Part) -> bool:
        """Whether a part may stand here; of a function, as far as it is known."""
        if isinstance(part.node, ast.FunctionDef):
            return bool(self.kinds)
        return not set(self.kinds).isdisjoint(lineage(part))

    def names(self) -> tuple[list[str], list[str]]:
        """Names of the base classes, and of others that may stand here."""
        wanted = [kind.name for kind in self.own] or [str(kind) for kind in self.kinds]
        return wanted, sorted({part.name for part in _concrete() if self.fits(part)} - {*wanted})


class _Names:
    """Walks through one config.

    Args:
        words: The command line.
        guesses: Whether a short name that the package does not have is wrong.
    """

    def __init__(self, words: Sequence[str], guesses: bool) -> None:
        self.words, self.guesses = words, guesses

    def value(self, value: Any, place: _Place) -> None:
        """Check what is given where classes are taken: one, several, or several by name."""
        if isinstance(value, dict) and isinstance(value.get("class_path"), str):
            self._class(value, place)
        elif place.many and isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                self.value(item, replace(place, many=False))

    def _class(self, spec: Mapping[str, Any], place: _Place) -> None:
        part = self._part(spec["class_path"], place)
        given = spec.get("init_args")
        if part is None or not isinstance(given, dict) or not place.fits(part):
            return
        taken = arguments(part)
        if taken is None or any(argument.name.startswith("*") for argument in taken):
            return
        by_name = {argument.name: argument for argument in taken}
        for key, value in given.items():
            if not isinstance(key, str) or not _plain(key):
                continue
            if key not in by_name:
                known = list(by_name)[place.filled :]
                raise Paragraphs(self.words, place.path).no_argument(key, part.name, known)
            inside = place.inside(by_name[key])
            called = ast.unparse(getattr(by_name[key].annotation, "value", ast.Pass())) == "Callable"
            if value is None and called:  # the parser would take it, and fail where it is called
                told, wanted = Paragraphs(self.words, inside.path), " or ".join(inside.names()[0])
                raise told.error(key, "nothing", f"a {wanted}", "name one, or leave the key out")
            self.value(value, inside)

    def _part(self, name: str, place: _Place) -> Part | None:
        """What a class_path of the package leads to; None if that cannot be told."""
        if name.startswith(f"{PACKAGE}."):
            found = find(name)
            missing = found is None and bool(place.own or _LIGHTNINGS.intersection(place.kinds))
        else:
            files = homes().get(name, ())
            found = resolve(files[0], name) if len(files) == 1 else None
            missing = not files and name.isidentifier() and self.guesses and self._wrong(name, place)
        if missing:
            raise Paragraphs(self.words, place.path).no_class(name, *place.names())
        return found if isinstance(found, Part) else None

    def _wrong(self, name: str, place: _Place) -> bool:
        """Whether a short name that the package does not have cannot be somebody else's."""
        others = {kind for kind in place.kinds if isinstance(kind, str)} - _VALUES
        if not others:
            return bool(place.own)
        wanted, known = place.names()
        return others <= _LIGHTNINGS and bool(nearest(name, [*known, *wanted]))


@cache
def _concrete() -> tuple[Part, ...]:
    """The public classes that a config may name."""
    modules: Iterable[str] = (*SHELVES, "module", "mutual")
    parts = [part for module in modules for part in public(f"{PACKAGE}.{module}")]
    return tuple(part for part in parts if isinstance(part.node, ast.ClassDef) and not is_abstract(part))
