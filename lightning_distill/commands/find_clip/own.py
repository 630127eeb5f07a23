"""The clip that a config comes with: guards that stay, a range that is tried."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pydoc import locate
from typing import Any

from lightning_distill.clipping import NonFiniteGuard
from lightning_distill.range_finding.places import NEVER, Place


def clip_keys(config: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    """Where the clip stands in a config: inside of the guards around it, if there are any.

    Args:
        config: All keys of `fit`, with full class paths.
        place: Of the range.
    """
    keys = place.keys
    while _is_guard(_at(config, keys)):
        keys = (*keys, "init_args", "rule")
    return keys


def in_guards(config: Mapping[str, Any], place: Place, spec: Mapping[str, Any] | None) -> Any:
    """What to write at `place.keys` for a clip, so that the config's guards stay around it.

    Args:
        config: All keys of `fit`.
        place: Of the range.
        spec: The clip; None is none. A guard must have one, and gets a range that nothing reaches.
    """
    inner = clip_keys(config, place)[len(place.keys) :]
    if not inner:
        return spec
    whole = copy.deepcopy(_at(config, place.keys))
    tree = whole
    for key in inner[:-1]:
        tree = tree[key]
    tree[inner[-1]] = spec or place.spec(NEVER)
    return whole


def notes(config: Mapping[str, Any], place: Place) -> list[str]:
    """What becomes of the config's own clip.

    Args:
        config: All keys of `fit`.
        place: Of the range.
    """
    told, keys = [], clip_keys(config, place)
    name, own = place.keys[-1], _at(config, keys)
    if keys != place.keys:
        told.append(f"the guard of the config, {_name(_at(config, place.keys))}, stays in all trainings")
    if own and not _is_tried(own, place):
        told.append(f"the config's own {name}, {_name(own)}, takes no part; what is found replaces it")
    return told


def _is_tried(own: Mapping[str, Any], place: Place) -> bool:
    """Whether it is the clip of the place with a fixed range: what `Place.own` reads from the module."""
    spec, args = place.spec(1.0), own.get("init_args") or {}
    fixed = isinstance(args.get("epsilon"), int | float) and args.get("unit") is None
    return fixed and spec is not None and _class(own) is _class(spec)


def _is_guard(spec: Any) -> bool:
    kind = _class(spec) if isinstance(spec, Mapping) else None
    return isinstance(kind, type) and issubclass(kind, NonFiniteGuard)


def _class(spec: Mapping[str, Any]) -> object:
    return locate(str(spec.get("class_path", "")))


def _name(spec: Mapping[str, Any]) -> str:
    return str(spec.get("class_path", "")).rpartition(".")[2]


def _at(config: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
