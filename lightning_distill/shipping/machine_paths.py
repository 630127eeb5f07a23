"""Paths that only mean something on this machine, and must not leave it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def of_this_machine(value: object) -> bool:
    """Whether it is a path that starts at the root of a disk or at somebody's home.

    Args:
        value: Anything.
    """
    return isinstance(value, str) and os.path.isabs(os.path.expanduser(value))


def without_folders(value: Any) -> Any:
    """A setting; of a path of this machine, its last part alone.

    Args:
        value: Plain.

    >>> without_folders("/home/me/words"), without_folders("bert-base-uncased"), without_folders([3, "~/x"])
    ('words', 'bert-base-uncased', [3, 'x'])
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return Path(value).name if of_this_machine(value) else value
