"""Samples in Hugging Face data sets whose rows can be indexed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.data.content_source import ContentSource, PlacedTable, content_digest
from lightning_distill.data.hugging_face_tables import (
    choose_columns,
    import_datasets,
    media_bytes,
    named_target,
    open_saved,
    split_of,
    text_column,
)
from lightning_distill.data.index import Index
from lightning_distill.data.path_source import check_modalities, kept_index
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_source import ManifestColumns, TableLayout, index_table
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, ManifestError

_COLUMNS: Final = ManifestColumns()
_BLOCK: Final = 64


class HuggingFaceSource(ContentSource):
    """Samples of a `datasets` Dataset or DatasetDict, for which `pip install lightning-distill[huggingface]`.

    Images and sounds are columns of the features Image and Audio, or of bytes; this library decodes them.
    Texts and labels may be any column of plain values: classes become their names, -1 no label, a list of
    texts or classes its items joined by `|`. Several splits of a DatasetDict are the splits; one alone is
    split by `splitter`. When the data set is first opened every image and sound is read once, for its content
    id. Nothing is downloaded and no code of a data set runs.

    Args:
        path: Folder that `save_to_disk` wrote; or, in Python, the data set itself. Cells that hold the path
            of a file in place of its content are read only in the latter case.
        modalities: modality -> name of its column.
        target: Which columns hold the labels; None is `SingleLabel()`. Where it names no classes, a
            ClassLabel gives their names and order.
        columns: Names of the columns for domain, weight and sample id.
        splitter: Which rows train, validate and test; None is `ColumnSplit()`.
        allow_absent: Accept a modality that all rows of a split lack.

    Raises:
        ConfigError: If a setting is wrong, or `datasets` is not installed.
        ManifestError: If the data set cannot be read, lacks a column, or a row is wrong; names both.
        SampleError: If an image or a sound is empty, or not in the data set.
    """

    def __init__(
        self,
        path: Any,
        modalities: dict[str, str],
        target: Target | None = None,
        columns: ManifestColumns = _COLUMNS,
        splitter: Splitter | None = None,
        allow_absent: bool = False,
    ) -> None:
        check_modalities(type(self), modalities)
        self._trusted = not isinstance(path, str | Path)
        found = path if self._trusted else open_saved(Path(path))
        self._name = type(found).__name__ if self._trusted else str(path)
        self._parts: dict[str, Any] = _parts(found, type(self).__name__)
        features = next(iter(self._parts.values())).features
        target = named_target(target or SingleLabel(), features)
        layout = TableLayout(dict(modalities), target, columns, splitter or ColumnSplit(), allow_absent)
        parts = [(name, part._fingerprint, _states(part)) for name, part in self._parts.items()]
        key = ["hugging face", self._name, parts, sorted(self.path_modalities)]
        index, _ = kept_index(key, layout, partial(self._build, layout))
        super().__init__(layout, index)

    def fetch(self, modality: str, row: int) -> bytes:
        """The bytes in a cell, or in the file it names."""
        part, at = self._place(row)
        column = self.layout.modalities[modality]
        cell = self._parts[part].select_columns([column])[at].column(0)[0].as_py()
        return media_bytes(cell, self.where(modality, row), self._trusted) or b""

    def describe(self, row: int) -> str:
        """Data set, split and number in the split, counted from 0."""
        part, at = self._place(row)
        return f"{self._name}[{part!r}][{at}]" if part else f"{self._name}[{at}]"

    def name(self, modality: str, row: int) -> str:
        """The modality: cells have no names of their own."""
        return f"the {modality}"

    def _place(self, row: int) -> tuple[str, int]:
        """The part a row is in, and its number there."""
        at = int(row)
        for name, part in self._parts.items():
            if at < len(part):
                return name, at
            at -= len(part)
        raise IndexError(row)

    def _build(self, layout: TableLayout) -> Index:
        import pyarrow as pa

        split_is_told = len(self._parts) > 1
        texts: dict[str, dict[Any, Any]] = {}
        for name, part in self._parts.items():
            origin = f"{self._name}[{name!r}]" if name else self._name
            required = [c for c in layout.required if not (split_is_told and c == "split")]
            wanted = choose_columns(origin, part.column_names, required, layout.optional)
            for column in wanted:
                texts.setdefault(column, {})[name] = self._text(part, origin, column, layout)
            if split_is_told:
                self._check_split(name, origin, wanted)
                texts.setdefault("split", {})[name] = pa.array([name] * len(part), pa.large_string())
        rows = sum(map(len, self._parts.values()))
        empty = {name: pa.nulls(len(part), pa.large_string()) for name, part in self._parts.items()}
        # What only some parts have is empty in the others.
        cells = {c: pa.concat_arrays([*{**empty, **blocks}.values()]) for c, blocks in texts.items()}
        if not rows:
            raise ManifestError(
                where=self._name, found="0 rows", expected="at least one row", fix="fill the data set"
            )
        table = PlacedTable(self._name, cells, np.arange(rows), self.describe)
        return index_table(table, layout, self.path_modalities, lambda table, column: None)

    def _check_split(self, name: str, origin: str, columns: list[str]) -> None:
        split_of(name, origin)
        if "split" in columns:
            raise ManifestError(
                where=origin,
                found="a column 'split' in a data set that is split",
                expected="one of the two",
                fix="remove the column, or join the splits by datasets.concatenate_datasets",
            )

    def _text(self, part: Any, origin: str, column: str, layout: TableLayout) -> Any:
        import pyarrow as pa

        if column not in [c for m, c in layout.modalities.items() if m in self.path_modalities]:
            whole = part.select_columns([column])[:].column(0)
            return text_column(origin, column, whole, part.features.get(column))
        digests: list[str | None] = []
        for block in part.select_columns([column]).iter(_BLOCK):
            for cell in block.column(0):
                where = f"{origin}[{len(digests)}], column {column!r}"
                data = media_bytes(cell.as_py(), where, self._trusted)
                digests.append(None if data is None else content_digest(data))
        return pa.array(digests, pa.large_string())


def _parts(found: Any, where: str) -> dict[str, Any]:
    """The splits by their names, of which a data set that is not split has none."""
    datasets = import_datasets()
    parts = dict(found) if isinstance(found, Mapping) else {"": found}
    for part in parts.values():
        if not isinstance(part, datasets.Dataset):
            stream = isinstance(part, datasets.IterableDataset)
            raise ConfigError(
                where=f"{where}.path",
                found=f"{type(part).__name__}, which cannot be indexed" if stream else type(part).__name__,
                expected="a folder, a Dataset or a DatasetDict",
                fix="use HuggingFaceStream" if stream else "for example datasets.Dataset.from_list(rows)",
            )
    if not parts:
        raise ConfigError(
            where=f"{where}.path", found="no splits", expected="one or more", fix="fill the data set"
        )
    return {name: part.with_format("arrow") for name, part in parts.items()}


def _states(part: Any) -> list[tuple[str, int, int, int]]:
    """What tells whether the files of a data set are still the same."""
    names = [str(file["filename"]) for file in part.cache_files]
    return [(n, (s := os.stat(n)).st_size, s.st_mtime_ns, s.st_ctime_ns) for n in names]
