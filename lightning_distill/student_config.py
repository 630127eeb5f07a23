"""config.json of a saved student: how it is read, and that its files are as they were written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lightning_distill.errors import CheckpointError
from lightning_distill.security.trust import check_depth
from lightning_distill.writing.seal import CHECK, FILES, differing, is_whole
from lightning_distill.writing.whole_folder import standing

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
HERE: Final = "{folder}"
"""Stands in config.json for the folder it lies in."""
_KEYS: Final = frozenset(
    ("lightning_distill", "classes", "outputs", "preprocessing", "processors", "fused", "model", FILES, CHECK)
)
_MAX_CONFIG: Final = 4_000_000
"""Bytes of a config.json that are read."""


def read_config(folder: Path | str) -> dict[str, Any]:
    """What `save_student` wrote to config.json, with real paths.

    Raises:
        CheckpointError: If it is missing or not such a file.
    """
    folder = standing(Path(folder).absolute())
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MAX_CONFIG:
            raise ValueError(f"more than {_MAX_CONFIG:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        check_depth(content)
        if not isinstance(content["model"]["class_path"], str) or "classes" not in content:
            raise KeyError("model")
        for key in ("preprocessing", "processors"):  # older files have none
            if not all(isinstance(values, dict) for values in (content.get(key) or {}).values()):
                raise TypeError(key)
    except OSError as error:
        raise unreadable(path, "no such file" if isinstance(error, FileNotFoundError) else error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(path, f"not the description of a saved model ({error!r})") from error
    if strange := set(content) - _KEYS:
        raise unreadable(path, f"{sorted(strange)}, which this version does not know, or damage")
    if not is_whole(content):
        raise damaged(path, "other content than was written")
    here = str(folder)
    found = {**content, "model": swapped(content["model"], HERE, here)}
    return found | {"processors": swapped(content.get("processors") or {}, HERE, here)}


def damaged(path: Path, found: str, expected: str = "what `save_student` wrote") -> CheckpointError:
    """The error of a file that is not as it was written.

    Args:
        path: The file.
        found: What it is.
        expected: What it was.
    """
    return CheckpointError(
        where=path,
        found=found,
        expected=expected,
        fix=f"save it again, or take a copy; if you changed it yourself, remove `{CHECK}` (and, for another "
        f"file, `{FILES}`) from {CONFIG}",
    )


def unreadable(path: Path, found: object) -> CheckpointError:
    """The error of a file that is no part of a student.

    Args:
        path: The file.
        found: What it is.
    """
    return CheckpointError(
        where=path,
        found=found,
        expected=f"a folder with {CONFIG} and {WEIGHTS}, as `fit` leaves it in RUN/student",
        fix="check the path, or train the model first: lightning-distill fit --run RUN",
    )


def swapped(value: Any, old: str, new: str) -> Any:
    """The value with other words in its texts.

    >>> swapped({"a": ["x/b", 1]}, "x", "y")
    {'a': ['y/b', 1]}
    """
    if isinstance(value, dict):
        return {key: swapped(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [swapped(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


def check_files(content: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder in which a file is not as it was written.

    Args:
        content: Of its config.json.
        folder: Where it lies.

    Raises:
        CheckpointError: Names the file.
    """
    try:
        other = differing(content, folder)
    except (OSError, AttributeError, TypeError) as error:
        raise unreadable(folder, error) from error
    if other is not None:
        name, found, expected = other
        raise damaged(folder / name, found, expected)
