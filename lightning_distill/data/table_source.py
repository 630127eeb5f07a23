"""What all sources that are tables share: columns made into samples, checked all at once."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.annotations import content_ids, domains_of, given_ids, leaks, weights_of
from lightning_distill.data.audio import decode_audio
from lightning_distill.data.contents import hash_of_words
from lightning_distill.data.image import decode_image
from lightning_distill.data.index import Content, Index, make_index
from lightning_distill.data.source import SPLITS, DataSource, SampleTable
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.tables import TextTable
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, Faults, ManifestError, SampleError, nearest
from lightning_distill.randomness import mixed

KNOWN: Final = ("audio", "image", "text")
"""Modalities that can be read without more ado."""
CHECKSUM: Final = "_sha256"
"""A column of that name after a modality's column holds the checksum of each file."""


@dataclass(frozen=True)
class ManifestColumns:
    """Names of the columns that are neither modality nor target nor split.

    Attributes:
        domain: Name of the domain the row comes from.
        weight: Weight of the row in the task's loss; an empty cell is 1.
        sample_id: Name of the sample, each once. Without it a sample is known by its content.

    A table need not have columns of these names; any other name given here must be there.
    """

    domain: str = "domain"
    weight: str = "weight"
    sample_id: str = "sample_id"

    @property
    def optional(self) -> list[str]:
        """Those that need not be there."""
        return [name for kind, name in vars(self).items() if name == kind]

    @property
    def required(self) -> list[str]:
        """Those that must be there."""
        return [name for kind, name in vars(self).items() if name != kind]


@dataclass(frozen=True)
class TableLayout:
    """What the columns of a table mean.

    Attributes:
        modalities: modality -> name of its column.
        target: What the student is to say.
        columns: Names of other columns.
        splitter: Which rows train, validate and test.
        allow_absent: Accept a modality that all rows of a split lack.
    """

    modalities: Mapping[str, str]
    target: Target = field(default_factory=SingleLabel)
    columns: ManifestColumns = field(default_factory=ManifestColumns)
    splitter: Splitter = field(default_factory=ColumnSplit)
    allow_absent: bool = False

    @property
    def required(self) -> list[str]:
        """Columns that must be there."""
        own = [*self.modalities.values(), *self.target.columns]
        return [*own, *self.splitter.required, *self.columns.required]

    @property
    def optional(self) -> list[str]:
        """Columns that are used if they are there."""
        checksums = [column + CHECKSUM for column in self.modalities.values()]
        return [*self.splitter.optional, *self.columns.optional, *checksums]


class TableSource(DataSource):
    """Samples that a table lists, one a row. A subclass says where the bytes of a cell are.

    An empty cell means that the row lacks this modality, or a label. Every cell is text: the labels `NA`,
    `007` and `1e5` stay what they are. All that can be told from the table is checked at once.

    "image" and "audio" are read by `read`, "text" is the cell itself. For a modality of your own, extend
    `load`; name it in `path_modalities` if its cells are paths.

    Args:
        layout: What the columns mean.
        index: The rows.

    Raises:
        ConfigError: If there is a modality it cannot read.
    """

    path_modalities: ClassVar[frozenset[str]] = frozenset({"image", "audio"})
    """Modalities whose cells are paths."""

    def __init__(self, layout: TableLayout, index: Index) -> None:
        self.layout, self.index = layout, index
        self.origin = str(index.meta["origin"])
        self.classes = tuple(index.meta["classes"])
        self.domains = tuple(index.meta["domains"])
        for note in index.meta["notes"]:
            warnings.warn(note, stacklevel=3)

    @property
    def samples(self) -> SampleTable:
        """The rows, in the order of the table."""
        return self.index.samples

    def load(self, modality: str, row: int) -> Any:
        """Decode an image or a sound; a text is the cell itself."""
        if modality == "text":
            return self.cell(modality, row)
        if modality not in KNOWN:
            raise self._unknown(modality)
        where = self.where(modality, row)
        decode = decode_image if modality == "image" else decode_audio
        return decode(self.checked_bytes(modality, row), where, self.name(modality, row))

    def contents(self, rows: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.uint64]:
        """Hashes of what the cells say, or of what the files hold that they name."""
        found = np.zeros(len(rows), np.uint64)
        for modality in sorted(modalities):
            there = self.samples.present[modality][rows]
            digest = np.zeros(len(rows), np.uint64)
            digest[there] = self.cell_contents(modality, rows[there])
            found = mixed(found ^ digest ^ hash_of_words([modality])[0])
        return found

    def cell_contents(self, modality: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A hash of what each of these rows holds, none of them empty: of the cell itself.

        Args:
            modality: One of its modalities.
            rows: Row numbers.
        """
        return hash_of_words(self.index.cells(modality).take(rows).to_pylist())

    @abstractmethod
    def read(self, modality: str, row: int) -> bytes:
        """The bytes of the file that a cell names.

        Raises:
            SampleError: If they cannot be read.
        """

    def checked_bytes(self, modality: str, row: int) -> bytes:
        """The bytes of a file, compared with its checksum where the table has one.

        Raises:
            SampleError: If they cannot be read, or are others.
        """
        data = self.read(modality, row)
        if self.index.has_cells(modality + CHECKSUM):
            wanted = self.index.cells(modality + CHECKSUM)[row].as_py()
            found = hashlib.sha256(data).hexdigest()
            if wanted is not None and wanted.lower() != found:
                raise SampleError(
                    where=self.where(modality, row),
                    found=f"{self.name(modality, row)}, whose SHA-256 is {found}",
                    expected=f"{wanted}, as the column {self.layout.modalities[modality]}{CHECKSUM} says",
                    fix="restore the file, or correct the checksum",
                )
        return data

    def describe(self, row: int) -> str:
        """Table and row, as an editor counts its lines."""
        return f"{self.origin}, row {self.index.numpy('line')[row]}"

    def where(self, modality: str, row: int) -> str:
        """Table, row and column."""
        return f"{self.describe(row)}, column {self.layout.modalities.get(modality)!r}"

    def cell(self, modality: str, row: int) -> str:
        """The text of a cell, empty where the modality is absent."""
        return self.index.cells(modality)[row].as_py() or ""

    def name(self, modality: str, row: int) -> str:
        """What errors call the bytes that `read` gives."""
        return self.cell(modality, row)

    def _unknown(self, modality: str) -> ConfigError:
        return unreadable(type(self).__name__, modality)


def unreadable(source: str, modality: str, known: Collection[str] = KNOWN) -> ConfigError:
    """The error for a modality that a source has no reader for."""
    return ConfigError(
        where=f"{source}.modalities[{modality!r}]",
        found=f"a modality it cannot read{nearest(modality, known)}",
        expected=f"one of {', '.join(known)}",
        fix=f"use one of those names, or subclass {source} and extend `load`",
    )


def index_table(
    table: TextTable, layout: TableLayout, paths: frozenset[str], check: Callable[[TextTable, str], None]
) -> Index:
    """Make samples of the rows.

    Args:
        table: Holds the columns of the layout.
        layout: What they mean.
        paths: Modalities whose cells are paths.
        check: Gets the table and a column of paths, and raises what is wrong with them.

    Raises:
        ManifestError: The first fault, with the others attached; likewise `SampleError` from `check`.
    """
    faults, columns = Faults(), layout.columns
    present = {m: np.asarray(table.columns[c].is_valid()) for m, c in layout.modalities.items()}
    path_columns = {m: c for m, c in layout.modalities.items() if m in paths}
    ids = split = labels = weight = None
    domains: tuple[str, ...] = ("default",)
    domain = np.zeros(len(table), np.int64)
    with faults.noted():
        _check_presence(table, layout, present)
    for column in path_columns.values():
        with faults.noted():
            check(table, column)
    with faults.noted():
        labels = layout.target.read(table)
    with faults.noted():
        named = columns.sample_id in table.columns
        ids = given_ids(table, columns.sample_id) if named else content_ids(table, layout.modalities)
    if ids is not None and labels is not None:
        with faults.noted():
            split = layout.splitter.split(table, ids, labels.values)
            if not layout.allow_absent:
                _check_splits(table, split, present)
    if columns.domain in table.columns:
        with faults.noted():
            domains, domain = domains_of(table, columns.domain)
    if columns.weight in table.columns:
        with faults.noted():
            weight = weights_of(table, columns.weight)
    faults.raise_first()
    assert ids is not None
    assert labels is not None
    assert split is not None
    empty = np.empty(0, np.float32)
    samples = SampleTable(ids, labels.values, split, domain, present, empty if weight is None else weight)
    cells = {m: table.columns[c] for m, c in layout.modalities.items()}
    for modality, column in layout.modalities.items():
        if column + CHECKSUM in table.columns:
            cells[modality + CHECKSUM] = table.columns[column + CHECKSUM]
    meta = {
        "origin": str(table.path),
        "classes": labels.names,
        "domains": domains,
        "notes": leaks(table, ids, split, path_columns),
    }
    return make_index(Content(cells, samples, table.line, meta))


def _check_presence(table: TextTable, layout: TableLayout, present: dict[str, NDArray[np.bool_]]) -> None:
    absent = ~np.logical_or.reduce(list(present.values()))
    if absent.any():
        columns = ", ".join(map(repr, layout.modalities.values()))
        raise ManifestError(
            where=table.where(int(absent.argmax()), ", ".join(layout.modalities.values())),
            found=f"nothing in {columns}; so it is in {absent.sum()} of {len(absent)} rows",
            expected="at least one modality a row",
            fix="fill one of the cells, drop the row, or name a modality it has",
        )


def _check_splits(table: TextTable, split: NDArray[np.int8], present: dict[str, NDArray[np.bool_]]) -> None:
    for modality, there in present.items():
        counts = [
            (name, int((split == at).sum()), int(there[split == at].sum())) for at, name in enumerate(SPLITS)
        ]
        lacking = [name for name, rows, with_it in counts if rows and not with_it]
        if lacking:
            told = ", ".join(f"{with_it} of {rows} {name} rows" for name, rows, with_it in counts if rows)
            raise ManifestError(
                where=f"{table.path}, modality {modality!r}",
                found=f"it is there in {told}",
                expected="some rows with it in every split",
                fix=f"fill cells of the {lacking[0]} rows, split otherwise, or set allow_absent to true if it"
                " is meant to be so",
            )
