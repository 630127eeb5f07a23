"""Writing a folder as a whole: at any moment, also after a crash, the old one or the new one is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_distill.writing.disk import refusals_named, sync


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of `folder` once the block ends well.

    Until then `folder` stays as it is; it goes only when the new one stands and has reached the disk. After
    a crash between two renames `standing` tells where the old one is. One process at a time writes a folder.

    Args:
        folder: Absolute; its parent is made where needed.

    Raises:
        DiskError: If the disk refuses to let it take its place; the old folder is as it was.
    """
    new, old = _beside(folder, "partial"), _beside(folder, "old")
    try:
        with refusals_named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.exists() and old.exists():
                old.rename(folder)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
        yield new
        with refusals_named(folder):
            for path in (*new.rglob("*"), new):
                sync(path)
            if folder.exists():
                folder.rename(old)
            _take_place(new, folder, old)
            sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _take_place(new: Path, folder: Path, old: Path) -> None:
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def standing(folder: Path) -> Path:
    """Where the content of a folder is: beside it, if its writer died while it was being replaced.

    Args:
        folder: As `whole_folder` wrote it.
    """
    if os.path.lexists(folder):  # also ".", which has nothing beside it that could be named
        return folder
    old = _beside(folder, "old")
    return old if old.is_dir() else folder


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")
