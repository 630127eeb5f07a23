"""Names of shards: braces and wildcards made into a list of files."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lightning_distill.data.files import problem_of
from lightning_distill.data.splits import SPLIT_NAMES
from lightning_distill.errors import ConfigError, ManifestError, nearest

Shards = str | list[str] | dict[str, str | list[str]]
"""A pattern, several, or those of each split."""
_MOST: Final = 100_000
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"([0-9]+)\.\.([0-9]+)")


def find_shards(shards: Shards, where: str) -> list[tuple[str, Path]]:
    """The files that are meant, each with the name of its split, or an empty name.

    Args:
        shards: Patterns.
        where: Names the setting in errors.

    Raises:
        ConfigError: If a pattern is wrong or no local file, or two of them mean the same file.
        ManifestError: If there is no such file.
    """
    by_split = shards if isinstance(shards, dict) else {"": shards}
    found: list[tuple[str, Path]] = []
    for split, patterns in by_split.items():
        if split and split not in SPLIT_NAMES:
            raise ConfigError(
                where=where,
                found=f"the split {split!r}{nearest(split, SPLIT_NAMES)}",
                expected=f"some of {', '.join(SPLIT_NAMES)}",
                fix="correct the name",
            )
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found += [(split, path) for path in _files(str(pattern), where)]
    paths = [path for _, path in found]
    counts = Counter(paths)
    again = next((path for path in paths if counts[path] > 1), None)
    if not paths or again is not None:
        raise ConfigError(
            where=where,
            found=f"{again} twice" if paths else "no shards",
            expected="tar files, each once",
            fix="for example train-{000..009}.tar, or train-*.tar",
        )
    return found


def _files(pattern: str, where: str) -> list[Path]:
    if "://" in pattern or pattern.startswith("pipe:"):
        raise ConfigError(
            where=where,
            found=f"{pattern}, which is no file of this machine",
            expected="local tar files",
            fix="download the shards first",
        )
    paths: list[Path] = []
    for name in expand_braces(pattern, where):
        wild = any(c in name for c in "*?[") and not Path(name).exists()
        paths += map(Path, sorted(glob.glob(name, recursive=True))) if wild else [Path(name)]
    problem = next((f"{path}, which {what}" for path in paths if (what := problem_of(path))), None)
    if problem or not paths:
        raise ManifestError(
            where=where,
            found=problem or f"no file that fits {pattern}",
            expected="tar files",
            fix="correct the pattern; it starts from the folder you are in",
        )
    return paths


def expand_braces(pattern: str, where: str) -> Iterator[str]:
    """Every name that braces stand for, in their order.

    >>> list(expand_braces("{a,b}-{08..10}.tar", ""))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [pattern]
    while (braces := _BRACES.search(names[0])) is not None:
        choices = _choices(braces[1])
        if len(names) * len(choices) > _MOST or not choices:
            raise ConfigError(
                where=where,
                found=f"{braces[0]}, which stands for {'too many' if choices else 'no'} names",
                expected=f"1 to {_MOST}, as in {{000..009}} or {{a,b}}",
                fix="correct the braces",
            )
        names = [_BRACES.sub(lambda _, c=choice: c, name, count=1) for name in names for choice in choices]  # type: ignore[misc]
    return iter(names)


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if last - first >= _MOST:
        return ["0"] * (_MOST + 1)
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
