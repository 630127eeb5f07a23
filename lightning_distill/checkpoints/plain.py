"""Values of types that can be read back without running code."""

from __future__ import annotations

import copy
import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from lightning_distill.errors import CheckpointError

_KEPT: Final = (type(None), bool, int, float, complex, str, bytearray, torch.Size, torch.dtype, torch.device)
_NUMBERS: Final = "biufc"
"""Kinds of NumPy arrays that are tensors too."""


def plain(value: Any, where: str = "checkpoint") -> Any:
    """The value in plain types: None, numbers, texts, bytes, tensors, and lists, tuples, sets, dicts of them.

    Paths become texts, enum members their values, NumPy scalars numbers and NumPy arrays tensors. What is
    plain already is not copied.

    Args:
        value: Anything.
        where: Its name, for errors.

    Raises:
        CheckpointError: If something in it has no plain form; it is named.

    >>> plain({"path": PurePath("a/b"), "size": np.float32(0.5), "shape": (1, np.int64(2))})
    {'path': 'a/b', 'size': 0.5, 'shape': (1, 2)}
    """
    try:
        return _plain(value, where)
    except RecursionError:
        raise CheckpointError(
            where=where,
            found="values inside each other without end",
            expected="plain values",
            fix="keep an object that holds itself out of hyperparameters and states",
        ) from None


def _plain(value: Any, where: str) -> Any:
    if type(value) in _KEPT or isinstance(value, Tensor):
        return value
    for kind, change in _CHANGES:
        if isinstance(value, kind):
            return change(value, where)
    raise CheckpointError(
        where=where,
        found=f"a value of type {type(value).__module__}.{type(value).__qualname__}",
        expected="numbers, texts, paths, enum members, arrays, tensors, or lists and dicts of them: "
        "only such can be read back without running code",
        fix="leave it out with save_hyperparameters(ignore=[...]), or give its name or its settings instead",
    )


def _of_mapping(value: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    keys = [_plain(key, f"a key of {where}") for key in value]
    values = [_plain(inner, f"{where}[{key!r}]") for key, inner in value.items()]
    same = _same(keys, value) and _same(values, value.values())
    if isinstance(value, dict) and type(value) in (dict, OrderedDict) and same:
        return value
    if type(value) is not OrderedDict:
        return dict(zip(keys, values, strict=True))
    # A state dict has the versions of its modules as an attribute.
    changed = copy.copy(value)
    changed.clear()
    changed.update(zip(keys, values, strict=True))
    return changed


def _of_sequence(value: list[Any] | tuple[Any, ...], where: str) -> list[Any] | tuple[Any, ...]:
    kind = list if isinstance(value, list) else tuple
    items = [_plain(inner, f"{where}[{place}]") for place, inner in enumerate(value)]
    return value if type(value) is kind and _same(items, value) else kind(items)


def _of_set(value: AbstractSet[Any], where: str) -> set[Any]:
    items = {_plain(inner, f"an item of {where}") for inner in value}
    return value if type(value) is set and _same(items, value) else items


def _of_array(value: np.ndarray[Any, Any], where: str) -> Any:
    if value.dtype.kind in _NUMBERS and value.dtype.itemsize <= 16 and value.dtype != np.longdouble:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    return _plain(value.tolist(), where)


def _same(items: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(items, others, strict=True))


_CHANGES: Final[tuple[tuple[Any, Callable[[Any, str], Any]], ...]] = (
    (enum.Enum, lambda value, where: _plain(value.value, where)),
    (PurePath, lambda value, where: str(value)),
    (np.ndarray, _of_array),
    (np.floating, lambda value, where: float(value)),
    (np.complexfloating, lambda value, where: complex(value)),
    (np.generic, lambda value, where: _plain(value.item(), where)),
    (Mapping, _of_mapping),
    ((list, tuple), _of_sequence),
    (AbstractSet, _of_set),
    (str, lambda value, where: str.__str__(value)),
    (int, lambda value, where: int(value)),
    (float, lambda value, where: float(value)),
    (complex, lambda value, where: complex(value)),
    (bytes, lambda value, where: bytes(value) or bytearray()),  # torch refuses empty bytes
    (bytearray, lambda value, where: bytearray(value)),
)
"""Type -> how a value of it becomes plain; the first that fits counts."""
