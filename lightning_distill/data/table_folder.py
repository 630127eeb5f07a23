"""Folders as a table: one folder a class, with or without one folder a split above."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from lightning_distill.data.splits import SPLIT_NAMES
from lightning_distill.data.tables import TextTable
from lightning_distill.errors import ManifestError, printable

_NAMED: Final = 3


@dataclass
class _Found:
    """What a walk has met so far, paths relative to the root, with slashes."""

    root: Path
    suffixes: frozenset[str]
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def read_folder(root: Path, suffixes: Iterable[str]) -> TextTable:
    """List the files below folders that are named after classes.

    The layout is `root/CLASS/**/file`, or `root/SPLIT/CLASS/**/file` where all folders in `root` are named
    train, val, validation, valid, dev or test. Hidden files and folders are skipped, links to folders are not
    followed. Other files are named in one warning.

    Args:
        root: Folder.
        suffixes: Of the files to list, with their dot, such as `.png`; capitals do not matter.

    Returns:
        Columns "path" (relative to `root`, with slashes), "label", and "split" where there are splits, sorted
        by path.

    Raises:
        ManifestError: If there is no such folder, no class in it, or a class has no files.
    """
    import pyarrow as pa

    root = Path(root)
    if not root.is_dir():
        raise ManifestError(
            where=root,
            found="a file" if root.exists() else "nothing",
            expected="a folder with a folder for each class",
            fix="correct the path",
        )
    found = _Found(root, frozenset(suffix.lower() for suffix in suffixes))
    top = list(_folders(found, ""))
    splits = _splits(root, top)
    for split in top if splits else [""]:
        for label in _folders(found, split) if splits else top:
            _add_class(found, split, label)
    if not found.rows:
        raise ManifestError(
            where=root,
            found="no folders of classes",
            expected="root/CLASS/file or root/SPLIT/CLASS/file",
            fix="move the files of each class into a folder named after it",
        )
    _warn(found)
    columns = dict(zip(("path", "label", "split"), zip(*sorted(found.rows), strict=True), strict=True))
    if not splits:
        del columns["split"]
    texts = {name: pa.array(cells, pa.large_string()) for name, cells in columns.items()}
    return TextTable(root, texts, np.arange(1, len(found.rows) + 1))


def _splits(root: Path, top: list[str]) -> bool:
    """Whether the folders at the top are splits; several splits beside something else are a mistake."""
    splits = [name for name in top if name.casefold() in SPLIT_NAMES]
    others = [name for name in top if name not in splits]
    if len(splits) > 1 and others:
        raise ManifestError(
            where=root,
            found=f"the folders {', '.join(splits)} beside {', '.join(others[:_NAMED])}",
            expected="either only splits or only classes",
            fix="move the others out, or the splits",
        )
    return bool(splits) and not others


def _folders(found: _Found, below: str) -> Iterator[str]:
    """Names of the folders in a folder, sorted; whatever else is there is a stray."""
    for entry in _entries(found.root / below):
        if entry.is_dir(follow_symlinks=False):
            yield entry.name
        else:
            found.strays.append(_relative(found, Path(entry.path)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ManifestError(
            where=folder,
            found=f"a folder that cannot be listed ({error.strerror})",
            expected="one that can be read",
            fix="give yourself the right to read it, or move it out",
        ) from error


def _add_class(found: _Found, split: str, label: str) -> None:
    before, strays = len(found.rows), len(found.strays)
    waiting = [found.root / split / label]
    while waiting:
        for entry in _entries(waiting.pop()):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_dir() or path.suffix.lower() not in found.suffixes:
                found.strays.append(_relative(found, path))
            else:
                found.rows.append((_relative(found, path), label, split.casefold()))
    if len(found.rows) == before:
        others = len(found.strays) - strays
        raise ManifestError(
            where=found.root / split / label,
            found=f"a class without files ({others} of other kinds)" if others else "a class without files",
            expected=f"files that end in {', '.join(sorted(found.suffixes))}",
            fix="fill the folder or remove it",
        )


def _relative(found: _Found, path: Path) -> str:
    relative = path.relative_to(found.root).as_posix()
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(
            where=os.fsencode(path).decode("utf-8", "backslashreplace"),
            found="a name that is no UTF-8 text",
            expected="names in UTF-8",
            fix="rename it",
        ) from error
    return relative


def _warn(found: _Found) -> None:
    if found.strays:
        named = ", ".join(found.strays[:_NAMED])
        more = ", ..." if len(found.strays) > _NAMED else ""
        warnings.warn(
            printable(
                f"{found.root}: {len(found.strays)} files or links are left out, since they are in no class, "
                f"end in none of {', '.join(sorted(found.suffixes))}, or lead to a folder: {named}{more}"
            ),
            stacklevel=3,
        )
