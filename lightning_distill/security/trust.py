"""Whether all that a saved model names is of packages that are trusted."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lightning_distill.errors import CheckpointError

_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


MAX_DEPTH: Final = 100
"""Of values in values, in the description of a model."""


def check_depth(value: Any, left: int = MAX_DEPTH) -> None:
    """Refuse what is so deep that going through it would fail.

    Raises:
        ValueError: If values stand in values too often.
    """
    if isinstance(value, dict | list):
        if not left:
            raise ValueError(f"more than {MAX_DEPTH} values in values")
        for item in value.values() if isinstance(value, dict) else value:
            check_depth(item, left - 1)


def check_trusted(
    value: Any, packages: Sequence[str], path: Path, key: str = "", loader: str = "load_student"
) -> None:
    """Refuse import paths outside `packages`, wherever they stand: a plain string may name a callable.

    Args:
        value: The description of the model, or a part of it.
        packages: Packages or modules, whose classes it may name.
        path: The file it is from, for messages.
        key: Where in the file.
        loader: What was called to read it, for messages.

    Raises:
        CheckpointError: Names the first one outside.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            check_trusted(item, packages, path, name, loader)
    elif isinstance(value, list):
        for item in value:
            check_trusted(item, packages, path, loader=loader)
    elif isinstance(value, str) and (key == "class_path" or _could_be_imported(value)):
        home, top = _home(value, packages), value.partition(".")[0]
        if not (_inside(value, packages) and _inside(home, packages)):
            raise CheckpointError(
                where=f"{path}, {key}",
                found=f"{value!r}" + ("" if home == value else f", which is {home or 'not to be found'!r}"),
                expected=f"classes of {', '.join(packages)} only",
                fix=f"if you trust it, call {loader}(folder, packages=[{top!r}]), or, of a command that "
                f"loads it, add --allow {top}",
            )


def _could_be_imported(value: str) -> bool:
    top = value.split(".")[0]
    return bool(_DOTTED.fullmatch(value)) and (top in sys.modules or find_spec(top) is not None)


def _inside(name: str, packages: Sequence[str]) -> bool:
    return any(name.startswith(p + ".") for p in packages)


def _home(dotted: str, packages: Sequence[str]) -> str:
    """Where an object really comes from, since any module also offers what it has imported."""
    if not _inside(dotted, packages):
        return dotted  # nothing is imported before it is trusted
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return ""
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', name)}"
