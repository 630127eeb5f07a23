"""Samples in WebDataset tar shards, read where they are."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from lightning_distill.data.content_source import ContentSource
from lightning_distill.data.path_source import check_modalities, kept_index
from lightning_distill.data.shard_names import Shards, find_shards
from lightning_distill.data.shard_table import KEY, build_index
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_source import ManifestColumns, TableLayout
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, SampleError

_COLUMNS: Final = ManifestColumns()
_PICKLES: Final = frozenset({"pkl", "pickle", "pyd", "pth", "pt"})
_OPEN: Final = 64


class ShardSource(ContentSource):
    """Samples in local tar files as WebDataset writes them, without unpacking.

    Where each member is, is found once from the headers and kept. After that any sample can be read at any
    time, so order, sampling, resume, workers and `in_memory` are the same as with files in a folder: an epoch
    is shuffled as a whole, whatever the order in the shards. WebDataset's own reader goes through them in
    sequence, which suits storage that cannot seek.

    The members with the same name up to the first dot after the last slash are a sample: `a/17.jpg`,
    `a/17.cls` and `a/17.json`. A column is an extension (several are tried in order: "jpg;png"), or a key of
    the member `json`, or `__key__` (name of the sample) or `__url__` (name of the shard). An image or sound
    of size 0 and a text that is no UTF-8 are errors; a missing or empty text is absent. Members that are not
    named are not opened. When shards are first opened every image and sound is read once, for its content id.

    Args:
        shards: Tar files: a name, a pattern such as `train-{000..009}.tar` or `train-*.tar`, or a list of
            them; or those of each split, {train: ..., val: ...}.
        modalities: modality -> its extensions, for example {image: "jpg;png", text: txt, audio: "wav;flac"}.
        target: Which columns hold the labels; None is `SingleLabel("cls")`.
        columns: Names of the columns for domain, weight and sample id.
        splitter: Which samples train, validate and test; None is `ColumnSplit()`.
        allow_absent: Accept a modality that all samples of a split lack.

    Raises:
        ConfigError: If a setting is wrong.
        ManifestError: If a shard is damaged, compressed, or holds links; or a column is missing, or wrong.
        SampleError: If images or sounds are empty.
    """

    def __init__(
        self,
        shards: Shards,
        modalities: dict[str, str],
        target: Target | None = None,
        columns: ManifestColumns = _COLUMNS,
        splitter: Splitter | None = None,
        allow_absent: bool = False,
    ) -> None:
        name = type(self).__name__
        check_modalities(type(self), modalities)
        if isinstance(shards, dict) and splitter is not None:
            raise ConfigError(
                where=f"{name}.splitter",
                found=f"{type(splitter).__name__}, and shards of each split",
                expected="one of the two",
                fix="remove splitter, or give the shards as a list",
            )
        layout = TableLayout(
            dict(modalities), target or SingleLabel("cls"), columns, splitter or ColumnSplit(), allow_absent
        )
        refuse_pickles(name, layout)
        found = find_shards(shards, f"{name}.shards")
        self.files = ShardFiles([path for _, path in found])
        places = [(split, *_state(path)) for split, path in found]
        index, _ = kept_index(
            ["shards", places, sorted(self.path_modalities)],
            layout,
            lambda: build_index(found, layout, self.path_modalities, self.files.read),
        )
        super().__init__(layout, index)

    def fetch(self, modality: str, row: int) -> bytes:
        """Read a member, at its place in the shard."""
        place = [int(self.index.numpy(f"{what} {modality}")[row]) for what in ("offset", "size")]
        return self.files.read(self._shard(row), *place)

    def describe(self, row: int) -> str:
        """Shard and sample."""
        return f"{self.files.paths[self._shard(row)]}, sample {self.index.cells(KEY)[row].as_py()!r}"

    def name(self, modality: str, row: int) -> str:
        """Name of the member."""
        return str(self.index.cells(f"name {modality}")[row].as_py())

    def _shard(self, row: int) -> int:
        return int(self.index.numpy("shard")[row])


class ShardFiles:
    """Reads from files by number, at any place. A few stay open, in each process its own.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._process = os.getpid()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Some bytes of a file.

        Raises:
            SampleError: If they cannot be read.
        """
        try:
            data = os.pread(self._file(number).fileno(), size, offset)
        except OSError as error:
            raise self._unreadable(number, error.strerror) from error
        if len(data) < size:
            raise self._unreadable(number, f"it ends before byte {offset + size}")
        return data

    def _file(self, number: int) -> IO[bytes]:
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if number not in self._open:
            if len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.paths[number].open("rb", buffering=0)
        self._open.move_to_end(number)
        return self._open[number]

    def _unreadable(self, number: int, problem: object) -> SampleError:
        return SampleError(
            where=self.paths[number],
            found=f"a shard that cannot be read ({problem})",
            expected="the shard as it was when the data were opened",
            fix="restore it, and start again",
        )

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the files itself."""
        return {"paths": self.paths, "_open": OrderedDict(), "_process": 0}


def _state(path: Path) -> tuple[str, int, int, int, int]:
    """What tells whether a file is still the same: every way to change it changes the last of these."""
    found = path.stat()
    return str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refuse_pickles(name: str, layout: TableLayout) -> None:
    """No column may be an extension of pickles.

    Raises:
        ConfigError: Names the column.
    """
    columns = [*layout.required, *layout.columns.required]
    for column in columns:
        if _PICKLES & set(column.lower().split(";")):
            raise ConfigError(
                where=f"{name}, column {column!r}",
                found="an extension of pickles, which run code when they are opened",
                expected="images, sounds and texts",
                fix="write the shards again with plain members",
            )
