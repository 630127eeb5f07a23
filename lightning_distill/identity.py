"""What an object is, as a hash: its class, the version of its code, its settings and its tensors."""

from __future__ import annotations

import enum
import functools
import inspect
import sys
from collections.abc import Mapping
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

_SKIPPED = frozenset({"training", "_parameters", "_buffers", "_modules"})
"""Of a module: the mode, and what is hashed by name."""


def identity_of(*objects: object) -> str:
    """128 bits of XXH3 over everything the objects consist of, in hexadecimal.

    Plain values count by value, tensors by dtype, shape and bytes wherever they lie, modules by parameters,
    buffers and attributes, functions by their code, any other object by its class and attributes, or by its
    class and its property `identity` where it has one. A class counts by name and by the version of its
    package, or by its source where the package tells no version.

    Args:
        objects: Anything.

    >>> layer = torch.nn.Linear(2, 2)
    >>> before = identity_of(layer)
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1)
    >>> identity_of(layer) == before
    False
    """
    hashing = _Hashing()
    for value in objects:
        hashing.feed(value)
    return hashing.digest.hexdigest()


class _Hashing:
    def __init__(self) -> None:
        self.digest = xxhash.xxh3_128()
        self._met: dict[int, int] = {}
        self._alive: list[object] = []

    def _say(self, *words: object) -> None:
        self.digest.update(repr(words).encode())

    def feed(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | PurePath):
            self._say(type(value).__name__, str(value) if isinstance(value, PurePath) else value)
        elif isinstance(value, torch.dtype | torch.device | torch.Size | slice | range | np.generic):
            self._say(repr(value))
        elif isinstance(value, enum.Enum | type):
            self._class(value if isinstance(value, type) else type(value))
            self._say(getattr(value, "name", ""))
        elif id(value) in self._met:
            self._say("met", self._met[id(value)])
        else:
            self._met[id(value)] = len(self._met)
            self._alive.append(value)  # so that no other object gets its id
            self._feed_object(value)

    def _feed_object(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._array(value.detach().cpu().contiguous().view(-1), value.dtype, value.shape)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._say(str(value.dtype), value.shape)
            self.digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Mapping):
            self._say("mapping", len(value))
            for key in sorted(value, key=repr):
                self._say(key if isinstance(key, str | int) else repr(key))
                self.feed(value[key])
        elif isinstance(value, set | frozenset):
            self._say("set", sorted(identity_of(item) for item in value))
        elif isinstance(value, list | tuple | np.ndarray):
            self._say("sequence", len(value))
            for item in value:
                self.feed(item)
        elif isinstance(
            value, FunctionType | MethodType | BuiltinFunctionType | ModuleType | functools.partial
        ):
            self._callable(value)
        else:
            self._attributes(value)

    def _array(self, flat: Tensor, dtype: torch.dtype, shape: torch.Size) -> None:
        self._say(str(dtype), tuple(shape))
        if flat.numel():
            self.digest.update(flat.view(torch.uint8).numpy().data)

    def _callable(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self.feed((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self.feed((value.__func__, value.__self__))
        elif isinstance(value, FunctionType):
            code = value.__code__
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            self._say(value.__module__, value.__qualname__, code.co_code, code.co_names)
            self.feed(([c for c in code.co_consts if not inspect.iscode(c)], value.__defaults__, held))
        else:
            self._say(getattr(value, "__module__", ""), value.__name__)

    def _attributes(self, value: Any) -> None:
        self._class(type(value))
        if isinstance(getattr(type(value), "identity", None), property):
            self.feed(value.identity)  # it says itself what counts
            return
        attributes = dict(getattr(value, "__dict__", {}))
        if isinstance(value, nn.Module):
            named: list[Any] = [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
            self.feed({**dict(named), **{f"module {name}": part for name, part in value.named_children()}})
            attributes = {k: v for k, v in attributes.items() if k not in _SKIPPED and "_hooks" not in k}
        self.feed(attributes)

    def _class(self, cls: type) -> None:
        self._say(cls.__module__, cls.__qualname__, _code_of(cls))


@functools.cache
def _code_of(cls: type) -> str:
    """Version of its package, else its source."""
    package = sys.modules.get(cls.__module__.partition(".")[0])
    version = getattr(package, "__version__", None)
    if isinstance(version, str) or cls.__module__ == "builtins":
        return str(version)
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""
