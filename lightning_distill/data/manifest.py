"""Samples listed in a file, one row each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from lightning_distill.data.files import problem_of, read_bytes
from lightning_distill.data.index import Index, digest_of
from lightning_distill.data.media_paths import check_media
from lightning_distill.data.path_source import PathSource, check_modalities, check_root, kept_index
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_source import ManifestColumns, TableLayout, index_table
from lightning_distill.data.tables import TextTable, read_table
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ManifestError

LOOKED_AT: Final = 2000
"""Files that are looked for each time a known table is opened; all of them the first time."""

_COLUMNS: Final = ManifestColumns()


class ManifestSource(PathSource):
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
        root = self.path.parent if root is None else Path(root)
        check_modalities(type(self), modalities)
        if self.path.exists():
            check_root(type(self), root)
        layout = TableLayout(
            dict(modalities), target or SingleLabel(), columns, splitter or ColumnSplit(), allow_absent
        )
        if problem_of(self.path):
            read_bytes(self.path, self.path, ManifestError)  # raises
        self._content = digest_of(self.path)
        check = partial(check_media, root=root, allow_outside_root=allow_outside_root)

        def build() -> Index:
            table = read_table(self.path, layout.required, layout.optional)
            return index_table(table, layout, self.path_modalities, check)

        place = (str(path), str(root.absolute()), allow_outside_root)
        index, new = kept_index([self._content, *place, sorted(self.path_modalities)], layout, build)
        super().__init__(layout, index, root)
        if not new:
            self._look_again(check)

    @property
    def fingerprint(self) -> str:
        """Hashes of the file, and of what ids, targets and splits became of it."""
        return f"{self._content}-{super().fingerprint}"

    def _look_again(self, check: Callable[[TextTable, str], None]) -> None:
        """Look for some of the files of a table that was checked before."""
        import pyarrow as pa

        rows = np.linspace(0, len(self.samples) - 1, min(len(self.samples), LOOKED_AT)).astype(np.int64)
        line = self.index.numpy("line")[rows]
        for modality in self.path_modalities & set(self.layout.modalities):
            column = self.layout.modalities[modality]
            cells = self.index.cells(modality).take(pa.array(rows))
            check(TextTable(self.path, {column: cells}, line), column)
