"""Samples listed in a CSV or Parquet table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.annotations import (
    classes_of,
    content_ids,
    domains_of,
    split_by_content,
    splits_of,
    warn_of_leaks,
)
from lightning_distill.data.audio import read_audio
from lightning_distill.data.image import read_image
from lightning_distill.data.media_paths import check_media
from lightning_distill.data.source import DataSource, SampleTable
from lightning_distill.data.tables import read_table
from lightning_distill.errors import ConfigError, ManifestError, nearest


@dataclass(frozen=True)
class ManifestColumns:
    """Names of the columns that are no modality.

    Attributes:
        label: Class of the row; an empty cell marks a row without a label.
        split: `train`, `val` (also `validation`, `valid`, `dev`) or `test`.
        domain: Name of the domain the row comes from.

    A table need not have columns called "split" and "domain"; any other name must be there.
    """

    label: str = "label"
    split: str = "split"
    domain: str = "domain"


_COLUMNS: Final = ManifestColumns()


class ManifestSource(DataSource):
    """Samples listed in a CSV or Parquet table, one a row.

    An empty cell means that the row lacks this modality, or a label. Every cell is text: the labels `NA`,
    `007` and `1e5` stay what they are. The whole table and the presence of every file are checked at once, so
    that a fault on the last row does not wait for the end of an epoch.

    The columns "image" and "audio" hold paths, "text" holds the text itself. For a modality of your own,
    subclass and extend `load`; name it in `path_modalities` if its cells are paths:

        class PointCloudManifest(ManifestSource):
            path_modalities = frozenset({"image", "audio", "points"})

            def load(self, modality, row):
                if modality == "points":
                    return np.load(self.file(modality, row))
                return super().load(modality, row)

    Args:
        path: Table that ends in `.csv` or `.parquet`.
        modalities: modality -> name of its column.
        columns: Names of the columns for label, split and domain.
        classes: Names of the classes in order; None takes the labels of the table, sorted (as numbers if all
            are whole numbers).
        root: Folder that paths start from; None takes the table's own.
        val_share: Share of the rows for validation where the table has no split column. A row's split depends
            on its content alone, so rows added later do not move the others.
        test_share: Likewise for testing.
        allow_outside_root: Accept absolute paths, `..` and links that leave `root`.

    Raises:
        ConfigError: If a setting is wrong.
        ManifestError: If the table cannot be read, lacks a column, or a row is wrong; names row and column.
        SampleError: If files are missing or empty.
    """

    path_modalities: ClassVar[frozenset[str]] = frozenset({"image", "audio"})
    """Modalities whose cells are paths."""

    def __init__(
        self,
        path: Path,
        modalities: dict[str, str],
        columns: ManifestColumns = _COLUMNS,
        classes: list[str] | None = None,
        root: Path | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        allow_outside_root: bool = False,
    ) -> None:
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self._column = dict(modalities)
        self._check_settings(classes, val_share, test_share)
        wanted = {"split": columns.split, "domain": columns.domain}
        optional = [name for kind, name in wanted.items() if name == kind]
        required = [*modalities.values(), columns.label, *(n for n in wanted.values() if n not in optional)]
        self._table = table = read_table(self.path, required, optional)
        present = {m: np.asarray(table.columns[c].is_valid()) for m, c in modalities.items()}
        self._check_presence(present)
        for modality in modalities:
            if modality in self.path_modalities:
                check_media(table, self._column[modality], self.root, allow_outside_root)
        self.classes, target = classes_of(table, columns.label, classes)
        sample_id = content_ids(table, self._column)
        if columns.split in table.columns:
            split = splits_of(table, columns.split)
            warn_of_leaks(table, sample_id, split)
        else:
            split = split_by_content(sample_id, val_share, test_share)
        domain = np.zeros(len(table), np.int64)
        if columns.domain in table.columns:
            self.domains, domain = domains_of(table, columns.domain)
        self._samples = SampleTable(sample_id, target, split, domain, present)

    @property
    def samples(self) -> SampleTable:
        """The rows, in the order of the table."""
        return self._samples

    def load(self, modality: str, row: int) -> Any:
        """Read an image or a sound from its file; a text is the cell itself."""
        where = f"{self.describe(row)}, column {self._column.get(modality)!r}"
        if modality == "image":
            return read_image(self.file(modality, row), where)
        if modality == "audio":
            return read_audio(self.file(modality, row), where)
        if modality == "text":
            return self.cell(modality, row)
        raise self._unknown(modality)

    def describe(self, row: int) -> str:
        """File and row, as an editor counts its lines."""
        return self._table.where(row)

    def cell(self, modality: str, row: int) -> str:
        """The text of a cell, empty where the modality is absent."""
        return self._table.columns[self._column[modality]][row].as_py() or ""

    def file(self, modality: str, row: int) -> Path:
        """The file that a cell names."""
        return self.root / self.cell(modality, row)

    def _unknown(self, modality: str) -> ConfigError:
        known = ("audio", "image", "text")
        return ConfigError(
            where=f"{type(self).__name__}.modalities[{modality!r}]",
            found=f"a modality it cannot read{nearest(modality, known)}",
            expected=f"one of {', '.join(known)}",
            fix="use one of those names, or subclass ManifestSource and extend `load`",
        )

    def _check_settings(self, classes: Sequence[str] | None, val_share: float, test_share: float) -> None:
        name = type(self).__name__
        if not self._column:
            raise ConfigError(
                where=f"{name}.modalities",
                found="none",
                expected="modality -> column",
                fix="for example {image: image_path, text: caption}",
            )
        if type(self).load is ManifestSource.load:
            for modality in self._column:
                if modality not in ("audio", "image", "text"):
                    raise self._unknown(modality)
        if classes is not None and (len(set(classes)) != len(classes) or len(classes) < 2):
            raise ConfigError(
                where=f"{name}.classes", found=classes, expected="two or more names, each once", fix="fix it"
            )
        if not (min(val_share, test_share) >= 0 and val_share + test_share < 1):
            raise ConfigError(
                where=f"{name}.val_share, test_share",
                found=f"{val_share}, {test_share}",
                expected="shares of 0 or more that leave rows to train on",
                fix="try 0.1 and 0.1",
            )
        if not self.root.is_dir() and self.path.exists():
            raise ConfigError(
                where=f"{name}.root", found=f"{self.root}, no folder", expected="a folder", fix="correct it"
            )

    def _check_presence(self, present: dict[str, NDArray[np.bool_]]) -> None:
        absent = ~np.logical_or.reduce(list(present.values()))
        if absent.any():
            columns = ", ".join(map(repr, self._column.values()))
            raise ManifestError(
                where=self._table.where(int(absent.argmax()), ", ".join(self._column.values())),
                found=f"nothing in {columns}; so it is in {absent.sum()} of {len(absent)} rows",
                expected="at least one modality a row",
                fix="fill one of the cells, drop the row, or name a modality it has",
            )
