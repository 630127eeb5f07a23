"""Finds what stands on a shelf, so that a new file is tested without an edit."""

from __future__ import annotations

import inspect
from abc import ABC
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from lightning_distill.clipping import ValueClip
from lightning_distill.feature_clipping import HardClip
from lightning_distill.fusion import GatedFusion
from lightning_distill.losses import LogitKD

SHELVES = (
    "balancing",
    "clipping",
    "encoders",
    "feature_clipping",
    "fusion",
    "gradient_balancing",
    "heads",
    "losses",
    "schedules",
    "tasks",
    "teachers",
    "units",
    "validators",
)
FORMULAS = ("clipping", "feature_clipping", "fusion", "losses", "validators")
"""Shelves whose classes implement a published formula and say which."""

_BY_TYPE: dict[str, Any] = {
    "Callable[[dict[str, int]], FusionHead]": GatedFusion,
    "DistillationLoss": LogitKD(),
    "list[FeatureClip]": [HardClip(0.5)],
    "ClipRule": ValueClip(0.5),
    "list[ClipRule]": [ValueClip(0.5)],
    "dict[str, ClipRule]": {"a": ValueClip(0.5)},
    "float | Schedule": 0.5,
    "float": 0.5,
    "int": 8,
    "str": "map",
    "list[str]": ["map", "small_map"],
}


def package(shelf: str) -> ModuleType:
    """The shelf's package."""
    return import_module(f"lightning_distill.{shelf}")


@cache
def modules(shelf: str) -> tuple[ModuleType, ...]:
    """The shelf's files."""
    names = [info.name for info in iter_modules(package(shelf).__path__)]
    return tuple(import_module(f"lightning_distill.{shelf}.{name}") for name in names)


def public(shelf: str, kind: Any = inspect.isclass) -> list[Any]:
    """Classes (or functions) without an underscore, where they are defined."""
    return [
        found
        for module in modules(shelf)
        for name, found in vars(module).items()
        if kind(found) and found.__module__ == module.__name__ and not name.startswith("_")
    ]


def concrete(shelf: str) -> list[Any]:
    """The shelf's classes that can be built: subclasses of its abstract base."""
    shared = [c for c in public(shelf) if c.__module__.endswith(".base")]
    bases = [c for c in shared if inspect.isabstract(c) or ABC in c.__bases__]
    (base,) = [c for c in bases if not set(c.__mro__[1:]) & set(bases)]
    found = [c for c in public(shelf) if issubclass(c, base) and not (c in bases or inspect.isabstract(c))]
    assert found, f"nothing on the shelf {shelf}"
    return found


def build(cls: Any, *args: Any, **options: Any) -> Any:
    """Build with the given arguments; fill what else is required by its type."""
    parameters = list(inspect.signature(cls).parameters.values())[len(args) :]
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            assert parameter.annotation in _BY_TYPE, (
                f"{cls.__name__}({parameter.name}: {parameter.annotation}): give it a default, "
                "or teach tests/shelves.py how to make one"
            )
            options[parameter.name] = _BY_TYPE[parameter.annotation]
    return cls(*args, **options)
