"""What sources have in common whose images and sounds are files that a table names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.contents import file_digests
from lightning_distill.data.files import read_bytes
from lightning_distill.data.index import Index, cached_index
from lightning_distill.data.table_source import KNOWN, TableLayout, TableSource, unreadable
from lightning_distill.errors import ConfigError

_PACKAGE: Final = __name__.partition(".")[0]


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

    def cell_contents(self, modality: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Where cells are paths, of what the files hold."""
        if modality not in self.path_modalities:
            return super().cell_contents(modality, rows)
        return file_digests(self.root, self.index.cells(modality).take(rows).to_pylist())

    def file(self, modality: str, row: int) -> Path:
        """The file that a cell names."""
        return self.root / self.cell(modality, row)


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
    ours = source.load.__module__.partition(".")[0] == _PACKAGE
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


def kept_index(key: Sequence[object], layout: TableLayout, build: Callable[[], Index]) -> tuple[Index, bool]:
    """The index of a table as `cached_index` gives it, if it depends on this library's classes alone.

    What a class of the user's does may change without a trace; then the index is made anew.

    Args:
        key: All that the index depends on beside the layout.
        layout: What the columns mean.
        build: Makes the index.

    Returns:
        The index, and whether it was new.
    """
    if _is_ours(layout):
        return cached_index([*key, plain(layout)], build)
    return build(), True


def _is_ours(value: Any) -> bool:
    """Whether no object among these settings is of a class of the user's."""
    if isinstance(value, Mapping):
        return all(map(_is_ours, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_ours, value))
    if hasattr(value, "__dict__"):
        return type(value).__module__.partition(".")[0] == _PACKAGE and _is_ours(vars(value))
    return True


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
