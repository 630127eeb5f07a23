"""Labels of several domains under one list of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import DataSource
from lightning_distill.errors import ConfigError
from lightning_distill.structures import UNLABELLED

_NAMED: Final = 8


def joined_targets(parts: Mapping[str, DataSource]) -> NDArray[Any]:
    """The targets of all parts, one after the other, in the classes of the first, told by name.

    Args:
        parts: Domain -> source.

    Raises:
        ConfigError: If a part has targets of another kind, or a label of a class that the first part lacks.
    """
    first = next(iter(parts))
    return np.concatenate([_mapped(name, source, first, parts[first]) for name, source in parts.items()])


def _mapped(name: str, source: DataSource, first: str, known: DataSource) -> NDArray[Any]:
    target, theirs = source.samples.target, known.samples.target
    if (target.ndim, target.dtype.kind, target.shape[1:]) != (
        theirs.ndim,
        theirs.dtype.kind,
        theirs.shape[1:],
    ):
        raise ConfigError(
            where=f"CrossDomainDataModule, domain {name!r}",
            found=f"{_kind(target)}, where {first!r} has {_kind(theirs)}",
            expected="targets of one kind and width in all domains",
            fix="read the labels of all domains with the same kind of target and the same classes",
        )
    if source.classes == known.classes:
        return target
    if target.ndim == 1:
        return _classes(name, source, first, known.classes)
    return _columns(name, source, first, known.classes)


def _kind(target: NDArray[Any]) -> str:
    if target.ndim == 1:
        return "one class a sample"
    return f"{target.shape[1]} {'numbers' if target.dtype.kind == 'f' else 'classes of which any may hold'}"


def _classes(name: str, source: DataSource, first: str, classes: Sequence[str]) -> NDArray[Any]:
    index = {label: at for at, label in enumerate(classes)}
    # Its last entry is where an unlabelled row looks.
    there = np.array([*(index.get(label, UNLABELLED) for label in source.classes), UNLABELLED])
    target = source.samples.target
    mapped = there[np.where(target == UNLABELLED, len(source.classes), target)]
    lost = (target != UNLABELLED) & (mapped == UNLABELLED)
    if lost.any():
        names = [source.classes[at] for at in np.unique(target[lost])]
        raise ConfigError(
            where=f"CrossDomainDataModule, domain {name!r}",
            found=f"{int(lost.sum())} rows with a label of a class that {first!r} lacks: {_some(names)}",
            expected=f"classes among {_some(classes)}",
            fix="correct the names so that one class has one name in all domains, name all classes in "
            f"{first!r}, or leave these rows or their labels out",
        )
    return mapped.astype(target.dtype)


def _columns(name: str, source: DataSource, first: str, classes: Sequence[str]) -> NDArray[Any]:
    if set(source.classes) != set(classes):
        raise ConfigError(
            where=f"CrossDomainDataModule, domain {name!r}",
            found=f"the columns {_some(source.classes)}, where {first!r} has {_some(classes)}",
            expected="the same columns in all domains, in any order",
            fix="name the same classes or columns in the target of both sources",
        )
    target: NDArray[Any] = source.samples.target[:, [source.classes.index(label) for label in classes]]
    return target


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
