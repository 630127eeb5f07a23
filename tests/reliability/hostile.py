"""What hostile artefacts have in common: each is made in the current folder, then opened as a user would."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

from tests.reliability.canaries import MODULE

Opening = Callable[[], object]
Config = dict[str, Any]
HEAD = f"{MODULE}.Head"
PART = f"class_path: {HEAD}\n"
"""A part of a config in a file of its own."""
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
"""A kilobyte that aliases make a hundred billion values of."""


def add_member(tar: tarfile.TarFile, name: str, data: bytes, **more: Any) -> None:
    """A member with these fields of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))
