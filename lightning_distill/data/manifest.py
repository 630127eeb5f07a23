"""Samples listed in a file, or in a table in memory: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.data.files import problem_of, read_bytes
from lightning_distill.data.index import Index, cached_index, digest_of
from lightning_distill.data.media_paths import check_media
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_source import (
    KNOWN,
    ManifestColumns,
    TableLayout,
    TableSource,
    index_table,
    unreadable,
)
from lightning_distill.data.tables import TextTable, read_table
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, ManifestError

LOOKED_AT: Final = 2000
"""Files that are looked for each time a known table is opened; all of them the first time."""

_COLUMNS: Final = ManifestColumns()


class ManifestSource(TableSource):
    """Samples listed in a CSV, TSV, JSONL or Parquet file.

    The whole table and the presence of every file are checked when it is first read, so that a fault on the
    last row does not wait for the end of an epoch. What was read is kept as an Arrow file, known by the
    content of the table, the settings and the version of this library; the next time that is mapped, and of
    the files a spread of `LOOKED_AT` is looked for.

    The columns "image" and "audio" hold paths, "text" holds the text itself. A column `image_path_sha256`
    beside `image_path` is compared with each file that is read. For a modality of your own:

        class PointCloudManifest(ManifestSource):
            path_modalities = frozenset({"image", "audio", "points"})

            def load(self, modality, row):
                if modality == "points":
                    return np.load(self.file(modality, row))
                return super().load(modality, row)

    Args:
        path: File that ends in `.csv`, `.tsv`, `.jsonl` or `.parquet`.
        modalities: modality -> name of its column.
        target: Which columns hold the labels; None is `SingleLabel()`, one class in the column "label".
        columns: Names of the columns for domain, weight and sample id.
        splitter: Which rows train, validate and test; None is `ColumnSplit()`, the column "split" where there
            is one and else a tenth each for validation and testing.
        root: Folder that paths start from; None takes the table's own.
        allow_outside_root: Accept absolute paths, `..` and links that leave `root`.
        allow_absent: Accept a modality that all rows of a split lack.

    Raises:
        ConfigError: If a setting is wrong.
        ManifestError: If the table cannot be read, lacks a column, or a row is wrong; names row and column.
        SampleError: If files are missing or empty.
    """

    def __init__(
        self,
        path: Path,
        modalities: dict[str, str],
        target: Target | None = None,
        columns: ManifestColumns = _COLUMNS,
        splitter: Splitter | None = None,
        root: Path | None = None,
        allow_outside_root: bool = False,
        allow_absent: bool = False,
    ) -> None:
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self._check_settings(modalities)
        target, splitter = target or SingleLabel(), splitter or ColumnSplit()
        layout = TableLayout(dict(modalities), target, columns, splitter, allow_absent)
        if problem_of(self.path):
            read_bytes(self.path, self.path, ManifestError)  # raises
        self._content = digest_of(self.path)

        def check(table: TextTable, column: str) -> None:
            check_media(table, column, self.root, allow_outside_root)

        def build() -> Index:
            table = read_table(self.path, layout.required, layout.optional)
            return index_table(table, layout, self.path_modalities, check)

        own = {type(part).__module__.partition(".")[0] for part in (target, columns, splitter)}
        if own == {"lightning_distill"}:
            place = (str(path), str(self.root.absolute()), allow_outside_root)
            paths = sorted(self.path_modalities)
            index, new = cached_index([self._content, *place, paths, plain(layout)], build)
        else:
            index, new = build(), True  # what a class of the user's does may change without a trace
        super().__init__(layout, index)
        if not new:
            self._look_again(check)

    @property
    def fingerprint(self) -> str:
        """Hash of the file."""
        return self._content

    def read(self, modality: str, row: int) -> bytes:
        """The content of the file that a cell names."""
        return read_bytes(self.file(modality, row), self.where(modality, row))

    def file(self, modality: str, row: int) -> Path:
        """The file that a cell names."""
        return self.root / self.cell(modality, row)

    def _look_again(self, check: Any) -> None:
        """Look for some of the files of a table that was checked before."""
        import pyarrow as pa

        rows = np.linspace(0, len(self.samples) - 1, min(len(self.samples), LOOKED_AT)).astype(np.int64)
        line = self.index.numpy("line")[rows]
        for modality in self.path_modalities & set(self.layout.modalities):
            column = self.layout.modalities[modality]
            cells = self.index.cells(modality).take(pa.array(rows))
            check(TextTable(self.path, {column: cells}, line), column)

    def _check_settings(self, modalities: dict[str, str]) -> None:
        name = type(self).__name__
        check_modalities(type(self), modalities, custom=type(self).load is not ManifestSource.load)
        if not self.root.is_dir() and self.path.exists():
            raise ConfigError(
                where=f"{name}.root", found=f"{self.root}, no folder", expected="a folder", fix="correct it"
            )


def check_modalities(source: type[TableSource], modalities: Mapping[str, str], custom: bool) -> None:
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
    for modality in modalities:
        if not custom and modality not in KNOWN:
            raise unreadable(source.__name__, modality)


def plain(value: Any) -> Any:
    """Settings as nested tuples with a stable `repr`.

    >>> plain(ManifestColumns())
    ('lightning_distill.data.table_source.ManifestColumns', ('domain', 'domain'), ('sample_id', 'sample_id'), \
('weight', 'weight'))
    """
    if isinstance(value, Mapping):
        return tuple((key, plain(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if hasattr(value, "__dict__"):
        kind = type(value)
        return (f"{kind.__module__}.{kind.__qualname__}", *plain(vars(value)))
    return value
