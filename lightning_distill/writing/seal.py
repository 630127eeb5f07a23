"""Checksums by which a folder tells whether it is as it was written."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from lightning_distill.errors import ConfigError

FILES: Final = "files"
CHECK: Final = "check"


def file_hash(path: Path) -> str:
    """XXH3-128 of a file's bytes, in hexadecimal.

    Raises:
        OSError: If it cannot be read.
        ConfigError: If xxhash is not installed.
    """
    digest = _digest()
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return digest(b"")
        # Mapped, as safetensors does to load it: twice as fast as to copy it into a buffer.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return digest(content)


def sealed(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A description of a folder, with a checksum of each file in it and one of the description itself.

    Args:
        content: As JSON takes it.
        folder: Everything in it is counted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "a.txt").write_text("a")
    ...     told = sealed({"name": "x"}, Path(place))
    >>> sorted(told), sorted(told["files"]), is_whole(told), is_whole({**told, "name": "y"})
    (['check', 'files', 'name'], ['a.txt'], True, False)
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    told = {**content, FILES: {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}}
    return {**told, CHECK: _check(told)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether a description is as it was written; one without a checksum is not looked at."""
    return CHECK not in content or content[CHECK] == _check({k: v for k, v in content.items() if k != CHECK})


def differing(content: Mapping[str, Any], folder: Path) -> tuple[str, str, str] | None:
    """The first file that is not as it was written: its name, what it is, and the checksum it should have.

    Args:
        content: As `sealed` gave it; one without checksums has none that differ.
        folder: Of the files.

    Raises:
        OSError: If one cannot be read.
    """
    for name, expected in content.get(FILES, {}).items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            return name, "a place outside the folder", "one inside"
        if not (folder / place).is_file():
            return name, "no such file", expected
        found = file_hash(folder / place)
        if found != expected:
            return name, f"other bytes than were written, XXH3-128 {found}", expected
    return None


def _check(told: Mapping[str, Any]) -> str:
    return _digest()(json.dumps(told, sort_keys=True).encode())


def _digest() -> Callable[[bytes | mmap.mmap], str]:
    """What makes a checksum; only a folder that has some needs it."""
    try:
        import xxhash
    except ImportError as error:
        raise ConfigError(
            where="checksums",
            found="no package xxhash, which reads them",
            expected="it: what cannot be checked may be damaged, and is not loaded",
            fix="pip install xxhash",
        ) from error
    return xxhash.xxh3_128_hexdigest
