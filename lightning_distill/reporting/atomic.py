"""Files that are there as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lightning_distill.security.secrets import redacted_values
from lightning_distill.writing.disk import refusals_named


def write_atomically(path: Path | str, content: bytes | str) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of one.

    Args:
        path: The target; its folder is made where needed.
        content: Text is written as UTF-8, with line ends as they are.

    Returns:
        The target.

    Raises:
        DiskError: If the disk refuses; what was there before is as it was.
    """
    target = Path(path)
    # The process id keeps two runs that write the same target from writing into one file.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    raw = content.encode() if isinstance(content, str) else content
    try:
        with refusals_named(target, len(raw)):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(raw)
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def write_json(path: Path | str, value: Any) -> Path:
    """Write a value as JSON, like `write_atomically`; NaN and infinity become null, secrets `***`.

    Args:
        path: The target; its folder is made where needed.
        value: Of dicts, lists, strings and numbers.

    Returns:
        The target.
    """
    text = json.dumps(_without_nan(redacted_values(value)), indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(path, text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
