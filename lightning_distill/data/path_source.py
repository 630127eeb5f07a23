"""What sources have in common whose images and sounds are files that a table names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_distill.data.files import read_bytes
from lightning_distill.data.index import Index, cached_index
from lightning_distill.data.media_paths import check_media
from lightning_distill.data.source import DataSource
from lightning_distill.data.table_source import KNOWN, TableLayout, TableSource, unreadable
from lightning_distill.data.tables import TextTable
from lightning_distill.errors import ConfigError


class PathSource(TableSource):
    """Samples of a table whose columns of images and sounds hold paths.

    Args:
        layout: What the columns mean.
        index: The rows.
        root: Folder that paths start from.
    """

    def __init__(self, layout: TableLayout, index: Index, root: Path) -> None:
        super().__init__(layout, index)
        self.root = root

    def read(self, modality: str, row: int) -> bytes:
        """The content of the file that a cell names."""
        return read_bytes(self.file(modality, row), self.where(modality, row))

    def file(self, modality: str, row: int) -> Path:
        """The file that a cell names."""
        return self.root / self.cell(modality, row)


class MediaCheck:
    """Looks at the files a column names, see `check_media`.

    Args:
        root: Folder that paths start from.
        allow_outside_root: Accept absolute paths, `..` and links that leave `root`.
    """

    def __init__(self, root: Path, allow_outside_root: bool) -> None:
        self.root, self.allow_outside_root = root, allow_outside_root

    def __call__(self, table: TextTable, column: str) -> None:
        check_media(table, column, self.root, self.allow_outside_root)


def check_modalities(source: type[TableSource], modalities: Mapping[str, str]) -> None:
    """There must be some, and a source that is not extended reads only those it knows.

    Raises:
        ConfigError: Says which is wrong.
    """
    if not modalities:
        raise ConfigError(
            where=f"{source.__name__}.modalities",
            found="none",
            expected="modality -> column",
            fix="for example {image: image_path, text: caption}",
        )
    ours = source.load.__module__.startswith(f"{DataSource.__module__.partition('.')[0]}.")
    for modality in modalities:
        if ours and modality not in KNOWN:
            raise unreadable(source.__name__, modality)


def check_root(source: type[TableSource], root: Path) -> None:
    """The folder that paths start from must be there.

    Raises:
        ConfigError: If it is not.
    """
    if not root.is_dir():
        raise ConfigError(
            where=f"{source.__name__}.root", found=f"{root}, no folder", expected="a folder", fix="correct it"
        )


def kept_index(key: tuple[object, ...], layout: TableLayout, build: Any) -> tuple[Index, bool]:
    """The index of a table as `cached_index` gives it, if it depends on this library's classes alone.

    What a class of the user's does may change without a trace; then the index is made anew.

    Args:
        key: All that the index depends on beside the layout.
        layout: What the columns mean.
        build: Makes the index.

    Returns:
        The index, and whether it was new.
    """
    parts = (layout.target, layout.columns, layout.splitter)
    if {type(part).__module__.partition(".")[0] for part in parts} != {__name__.partition(".")[0]}:
        return build(), True
    return cached_index([*key, plain(layout)], build)


def plain(value: Any) -> Any:
    """Settings as nested tuples with a stable `repr`.

    >>> plain([{"b": 1, "a": 2}])
    ((('a', 2), ('b', 1)),)
    """
    if isinstance(value, Mapping):
        return tuple((key, plain(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if hasattr(value, "__dict__"):
        kind = type(value)
        return (f"{kind.__module__}.{kind.__qualname__}", *plain(vars(value)))
    return value
