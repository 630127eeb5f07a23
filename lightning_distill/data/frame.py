"""Samples of a table in memory, one row each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from lightning_distill.data.media_paths import check_media
from lightning_distill.data.path_source import PathSource, check_modalities, check_root
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_source import ManifestColumns, TableLayout, index_table
from lightning_distill.data.tables import table_of
from lightning_distill.data.targets import SingleLabel, Target

_COLUMNS: Final = ManifestColumns()


class FrameSource(PathSource):
    """Samples of a pandas, polars or Arrow table; all else is as in `ManifestSource`.

    The table is read once, as text: numbers become the shortest text that reads back as the same, lists of
    text are joined by `|`, missing values are empty cells. Later changes of it do not reach the source. Rows
    are counted from 1 in errors.

    Args:
        frame: The table, or any object with the method `__arrow_c_stream__`.
        modalities: modality -> name of its column.
        target: Which columns hold the labels; None is `SingleLabel()`, one class in the column "label".
        columns: Names of the columns for domain, weight and sample id.
        splitter: Which rows train, validate and test; None is `ColumnSplit()`.
        root: Folder that paths start from.
        allow_outside_root: Accept absolute paths, `..` and links that leave `root`.
        allow_absent: Accept a modality that all rows of a split lack.

    Raises:
        ConfigError: If a setting is wrong.
        ManifestError: If the table cannot be read, lacks a column, or a row is wrong; names row and column.
        SampleError: If files are missing or empty.
    """

    def __init__(
        self,
        frame: Any,
        modalities: dict[str, str],
        target: Target | None = None,
        columns: ManifestColumns = _COLUMNS,
        splitter: Splitter | None = None,
        root: Path = Path("."),
        allow_outside_root: bool = False,
        allow_absent: bool = False,
    ) -> None:
        root = Path(root)
        check_modalities(type(self), modalities)
        check_root(type(self), root)
        layout = TableLayout(
            dict(modalities), target or SingleLabel(), columns, splitter or ColumnSplit(), allow_absent
        )
        table = table_of(frame, layout.required, layout.optional)
        check = partial(check_media, root=root, allow_outside_root=allow_outside_root)
        super().__init__(layout, index_table(table, layout, self.path_modalities, check), root)
