"""Objects from a description of them, without a parser: what a saved student needs to stand up again."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union

from lightning_distill.security.allowed import is_allowed

T = TypeVar("T")
_KEYS: Final = frozenset({"class_path", "init_args", "dict_kwargs"})
_SCALARS: Final = (bool, int, float, str, bytes)


def make(spec: Any, base: type[T], packages: Sequence[str]) -> T:
    """Make what `class_path` and `init_args` describe, and what they describe in turn.

    A description becomes an object; where the constructor wants a callable that makes one, as for a fusion
    head, it becomes that callable. No text is read as anything else than what the constructor asks for.

    Args:
        spec: As in a config that has been written out in full.
        base: What it must be.
        packages: Packages or modules whose classes may be named; others are not even imported.

    Raises:
        ValueError: If it is no such description, or names something else.
        ImportError: If something that is named, or that it needs, is not there.
        Exception: What a constructor raises.

    >>> from torch import nn
    >>> make({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
    ...      nn.Module, ["torch.nn"])
    Linear(in_features=2, out_features=3, bias=True)
    """
    made: T = _made(spec, base, packages)
    return made


def _made(spec: Any, base: Any, packages: Sequence[str], wanted: bool = True) -> Any:
    """An object; with `wanted` False, what makes one."""
    spec = {"class_path": spec} if isinstance(spec, str) else spec
    if not _is_spec(spec):
        raise ValueError(f"{_told(spec)}, no class_path with init_args")
    cls = _named(spec["class_path"], packages)
    given = {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}
    result = cls if inspect.isclass(cls) else _hints(cls).get("return")
    if not _is_kind(result, base):
        raise ValueError(f"{spec['class_path']}, no {getattr(base, '__name__', base)}")
    # A name that it does not know is told before anything is made.
    (inspect.signature(cls).bind if wanted else inspect.signature(cls).bind_partial)(**given)
    hints = _hints(cls)
    arguments = {name: _at(name, given[name], hints.get(name, Any), packages) for name in given}
    return cls(**arguments) if wanted else partial(cls, **arguments)


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class_path"), str) and set(value) <= _KEYS


def _told(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _named(path: str, packages: Sequence[str]) -> Any:
    """A class, or a function of the user's own that says what it makes."""
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")) or not is_allowed(path, packages):
        raise ValueError(f"{_told(path)}, no class of {', '.join(packages)}")
    found = getattr(import_module(module), name, None)
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    ours = path.partition(".")[0] == __name__.partition(".")[0]  # our own functions read files
    if not (inspect.isclass(found) or (inspect.isfunction(found) and not ours)):
        raise ValueError(f"{_told(path)}, no class")
    if not is_allowed(home, packages):
        raise ValueError(f"{_told(path)}, which is {home}, no class of {', '.join(packages)}")
    return found


def _is_kind(result: Any, base: Any) -> bool:
    if not inspect.isclass(base) or base in (object, Any):
        return inspect.isclass(result)
    try:
        return inspect.isclass(result) and issubclass(result, base)
    except TypeError:  # a protocol that is not to be asked
        return True


def _hints(cls: Any) -> dict[str, Any]:
    """Argument -> type, of the constructor and of those it passes arguments on to."""
    if not inspect.isclass(cls):
        return _hints_of(cls)
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent):
            found |= _hints_of(vars(parent)["__init__"])
    return found


def _hints_of(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # of what is only imported for type checkers
        return {}


def _at(name: str, value: Any, hint: Any, packages: Sequence[str]) -> Any:
    try:
        return _fit(value, hint, packages)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _fit(value: Any, hint: Any, packages: Sequence[str]) -> Any:
    """The value as an argument of that type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_fit(value, inner, packages)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{_told(value)}, none of {inner}")
        return value
    if hint is Callable or origin is Callable:
        return _callable(value, inner[1] if inner else Any, packages)
    kind = origin or hint
    if kind is type:
        return _named(value, packages)
    if (
        inspect.isclass(kind)
        and kind not in _SCALARS
        and issubclass(kind, Mapping | Sequence | set | frozenset)
    ):
        return _collection(value, kind, inner, packages)
    return _one(value, kind, packages)


def _first_fit(value: Any, hints: Sequence[Any], packages: Sequence[str]) -> Any:
    faults = []
    for hint in sorted(hints, key=lambda hint: hint is float):  # 1 is a whole number where that may be
        try:
            return _fit(value, hint, packages)
        except ValueError as error:
            faults.append(str(error))
    raise ValueError(" or ".join(dict.fromkeys(faults)))


def _callable(value: Any, result: Any, packages: Sequence[str]) -> Any:
    """What makes a `result`; where that is no class of ours, an object or a function that can be called."""
    makes = inspect.isclass(result) and result not in (object, Any)
    if isinstance(value, str) and not makes:
        return _named(value, packages)
    if makes and not (_is_spec(value) and not _is_kind(_named(value["class_path"], packages), result)):
        return _made(value, result, packages, wanted=False)
    found = _made(value, object, packages)
    if not callable(found):
        raise ValueError(f"{_told(value)}, which cannot be called")
    return found


def _collection(value: Any, kind: type, inner: Sequence[Any], packages: Sequence[str]) -> Any:
    if issubclass(kind, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{_told(value)}, no mapping")
        hint = inner[1] if len(inner) == 2 else Any
        return {key: _at(str(key), item, hint, packages) for key, item in value.items()}
    if not isinstance(value, list):
        raise ValueError(f"{_told(value)}, no list")
    each = inner if kind is tuple and inner and inner[-1] is not Ellipsis else None
    if each is not None and len(each) != len(value):
        raise ValueError(f"{len(value)} values, not {len(each)}")
    hints = each or [inner[0] if inner else Any] * len(value)
    items = [_fit(item, hint, packages) for item, hint in zip(value, hints, strict=True)]
    return kind(items) if kind in (tuple, set, frozenset) else items


def _one(value: Any, kind: Any, packages: Sequence[str]) -> Any:
    if kind in (type(None), None):
        if value is not None:
            raise ValueError(f"{_told(value)}, not null")
        return None
    if not inspect.isclass(kind) or kind in (object, Any):
        return _walked(value, packages)
    if kind in _SCALARS:
        return _scalar(value, kind)
    if issubclass(kind, Enum):
        if value not in kind.__members__:
            raise ValueError(f"{_told(value)}, none of {', '.join(kind.__members__)}")
        return kind[value]
    if issubclass(Path, kind) and isinstance(value, str):
        return Path(value)
    if is_dataclass(kind) and isinstance(value, dict) and "class_path" not in value:
        value = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": value}
    return _made(value, kind, packages)


def _scalar(value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{_told(value)}, no {kind.__name__}")
    return value


def _walked(value: Any, packages: Sequence[str]) -> Any:
    """Where nothing says what is wanted, a description is of an object."""
    if _is_spec(value):
        return _made(value, object, packages)
    if isinstance(value, dict):
        return {key: _walked(item, packages) for key, item in value.items()}
    return [_walked(item, packages) for item in value] if isinstance(value, list) else value
