"""Files that are there as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path | str, content: bytes | str) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one.

    Args:
        path: The target; its folder is made where needed.
        content: Text is written as UTF-8, with line ends as they are.

    Returns:
        The target.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two runs that write the same target from writing into one file.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def write_json(path: Path | str, value: Any) -> Path:
    """Write a value as JSON, like `write_atomically`; NaN and infinity become null.

    Args:
        path: The target; its folder is made where needed.
        value: Of dicts, lists, strings and numbers.

    Returns:
        The target.
    """
    text = json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(path, text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
