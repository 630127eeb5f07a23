"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
