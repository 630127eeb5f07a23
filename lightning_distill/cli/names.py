"""Which names are right: parameters of a class, subclasses of a type."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final

from lightning_distill.security.allowed import is_allowed
from lightning_distill.shelves import SHELVES as SHELVES
from lightning_distill.shelves import import_shelves as import_shelves

_ROOTS: Final = {
    "model": "lightning_distill.module.DistillationModule",
    "data": "lightning.pytorch.LightningDataModule",
    "trainer": "lightning.pytorch.Trainer",
}


def some(words: Iterable[str], limit: int = 12) -> str:
    """Join words, the first of many.

    >>> some(["a", "b", "c"], limit=2)
    'a, b, ...'
    """
    words = list(words)
    return ", ".join(words[:limit]) + (", ..." if len(words) > limit else "")


def load(dotted: str) -> Any:
    """The object with that import path.

    Raises:
        ImportError: If there is none, or a config may not name it: messages quote what a config holds.
    """
    if not is_allowed(dotted) and dotted not in _ROOTS.values():
        raise ImportError(f"{dotted} is not allowed")
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


def parameters(dotted: str) -> list[str]:
    """Names of the parameters of a class or function; empty where it cannot be told.

    >>> parameters("lightning_distill.losses.LogitKD")
    ['temperature']
    """
    try:
        return list(inspect.signature(load(dotted)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def subclasses(kind: type) -> Iterator[type]:
    """The public classes of a kind that can be instantiated and are imported so far."""
    if not inspect.isabstract(kind) and not kind.__name__.startswith("_"):
        yield kind
    children: list[type] = kind.__subclasses__()
    for child in children:
        yield from subclasses(child)


def kinds(owner: str, parameter: str) -> Sequence[type]:
    """The classes a parameter is typed with.

    Args:
        owner: Import path of the class with that parameter; empty for a key of the command itself.
        parameter: Its name; a dotted key where `owner` is empty.

    >>> [kind.__name__ for kind in kinds("lightning_distill.module.DistillationModule", "losses")]
    ['DistillationLoss']
    """
    if not owner:
        top, _, parameter = parameter.partition(".")
        if top not in _ROOTS:
            return []
        owner = _ROOTS[top]
        if not parameter:
            return [load(owner)]
    try:
        made = load(owner)
        hints = typing.get_type_hints(getattr(made, "__init__") if isinstance(made, type) else made)  # noqa: B009
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return []
    return list(dict.fromkeys(_classes_in(hints.get(parameter))))


def _classes_in(hint: Any) -> Iterator[type]:
    arguments = typing.get_args(hint)
    if isinstance(arguments[:1] and arguments[0], list):  # Callable[[...], Result]
        arguments = arguments[1:]
    for argument in arguments:
        yield from _classes_in(argument)
    if not arguments and isinstance(hint, type) and hint.__module__ != "builtins":
        yield hint
