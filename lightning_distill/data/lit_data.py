"""Samples that litdata has optimised, read one chunk after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from lightning_distill.data.content_source import PlacedTable, content_digest
from lightning_distill.data.files import read_bytes
from lightning_distill.data.hugging_face_tables import choose_columns, media_bytes
from lightning_distill.data.part_stream import PartStream
from lightning_distill.data.source import SPLITS
from lightning_distill.data.splits import SPLIT_NAMES
from lightning_distill.data.stream import StreamSample
from lightning_distill.data.stream_rows import (
    MEDIA,
    WEIGHT,
    check_stream,
    decoded,
    stream_classes,
    stream_samples,
)
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, ManifestError, nearest

_BLOCK: Final = 64
_PLAIN: Final = frozenset({"bool", "bytes", "float", "int", "str", "text"})
"""Formats that are read as what they are."""
_RAW: Final = frozenset({"audio", "file", "image", "jpeg"})
"""Formats litdata would decode; their bytes are taken as they were written."""


class LitDataStream(PartStream):
    """Samples of a folder that `litdata.optimize` wrote: dicts of images and sounds as bytes, texts, numbers.

    Chunks are taken from the folder, which may be a mounted one, by litdata's own reader; each process and
    worker takes others. Training draws from the chunks in an order of their own each epoch, and then from a
    buffer. What litdata has pickled is refused, since reading it runs code.

    Args:
        folder: The folder, to train on; or those of each split, {train: ..., val: ...}.
        modalities: modality -> its key.
        target: Which keys hold the labels; None is `SingleLabel()`. It must name its classes.
        buffer: Samples among which each process or worker draws the next one; they fill its memory.
        readers: Places each process reads at in turn; the number of workers should divide it.

    Raises:
        ConfigError: If a setting is wrong, classes are not named, or `litdata` is not installed.
        ManifestError: If there is no such folder, a key is missing, or a format is no plain one; later, if a
            chunk is damaged.
    """

    def __init__(
        self,
        folder: str | dict[str, str],
        modalities: dict[str, str],
        target: Target | None = None,
        buffer: int = 1000,
        readers: int = 4,
    ) -> None:
        name = type(self).__name__
        check_stream(name, modalities, buffer, readers)
        import_litdata()
        self._columns, self._target = dict(modalities), target or SingleLabel()
        self.classes = stream_classes(self._target, name)
        self.modalities, self.buffer, self.readers = tuple(modalities), buffer, readers
        self._folders = _by_split(folder, f"{name}.folder")
        self.splits = tuple(self._folders)
        wanted = [*self._columns.values(), *self._target.columns]
        indexes = {split: _Chunks(path) for split, path in self._folders.items()}
        self._used = {s: choose_columns(i.where, i.keys, wanted, [WEIGHT]) for s, i in indexes.items()}
        self._chunks = indexes
        self._open: dict[str, Any] = {}
        self._weighted = any(WEIGHT in used for used in self._used.values())
        self.fingerprint = xxhash.xxh3_128_hexdigest(repr([i.told for i in indexes.values()]).encode())

    def sizes(self, split: str) -> Sequence[int]:
        """Samples in each chunk."""
        return self._chunks[split].sizes

    def part_name(self, split: str, part: int) -> str:
        """The chunk's file."""
        return str(self._folders[split] / self._chunks[split].names[part])

    def walk(self, split: str, part: int, first: int) -> Iterator[StreamSample]:
        """Read a chunk."""
        size, start = self.sizes(split)[part], sum(self.sizes(split)[:part])
        for at in range(first, size, _BLOCK):
            places = range(at, min(at + _BLOCK, size))
            rows = [self._read(split, part, start + place) for place in places]
            yield from self._samples(rows, split, part, places)

    def load(self, sample: StreamSample, modality: str) -> Any:
        """Decode an image or a sound; a text is what it is."""
        return decoded(sample, modality, self._columns[modality])

    def _read(self, split: str, part: int, position: int) -> Mapping[str, Any]:
        try:
            if split not in self._open:
                self._open[split] = self._chunks[split].open()
            found: Mapping[str, Any] = self._open[split][position]
            return found
        except Exception as error:  # litdata raises what it likes
            raise ManifestError(
                where=self.part_name(split, part),
                found=f"a chunk that cannot be read ({' '.join(str(error).split()) or type(error).__name__})",
                expected="the chunk as litdata wrote it",
                fix="restore it, or optimise the data again",
            ) from error

    def _samples(
        self, rows: Sequence[Mapping[str, Any]], split: str, part: int, places: range
    ) -> Iterator[StreamSample]:
        import pyarrow as pa

        def place(row: int) -> str:
            return f"{self.part_name(split, part)}, sample {places[row]}"

        raw: dict[str, list[Any]] = {}
        columns: dict[str, Any] = {}
        by_column = {column: modality for modality, column in self._columns.items()}
        for name in [*self._used[split], *([WEIGHT] if self._weighted else [])]:
            cells = [row.get(name) for row in rows]
            modality = by_column.get(name, "")
            if modality in MEDIA:
                cells = [
                    media_bytes(_bytes(cell), f"{place(row)}, key {name!r}", False)
                    for row, cell in enumerate(cells)
                ]
                columns[name] = [None if data is None else content_digest(data) for data in cells]
            else:
                cells = columns[name] = [_text(cell) for cell in cells]
            if modality:
                raw[modality] = cells
        table = PlacedTable(
            str(self._folders[split]),
            {name: pa.array(texts, pa.large_string()) for name, texts in columns.items()},
            np.array(places),
            place,
        )
        return stream_samples(table, self._columns, self._target, raw)

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the chunks itself."""
        return {**self.__dict__, "_open": {}}


class _Chunks:
    """What `index.json` says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, folder / "index.json"
        content = read_bytes(self.where, folder, ManifestError)
        try:
            found = json.loads(content)
            self.names = [str(chunk["filename"]) for chunk in found["chunks"]]
            self.sizes = [int(chunk["chunk_size"]) for chunk in found["chunks"]]
            formats = [str(name).partition(":")[0] for name in found["config"]["data_format"]]
            spec = json.loads(found["config"]["data_spec"])[1]
            self.keys = [str(key) for key in json.loads(spec["context"])]
            self.told = [(c["filename"], c["chunk_size"], c["chunk_bytes"]) for c in found["chunks"]]
            if len(formats) != len(self.keys):
                raise ValueError("nested samples")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ManifestError(
                where=self.where,
                found=f"no index of samples that are plain dicts ({error!r})",
                expected="what litdata.optimize writes for dicts of bytes, texts and numbers",
                fix="return such a dict from the function given to litdata.optimize",
            ) from error
        odd = next((key for key, f in zip(self.keys, formats, strict=True) if f not in _PLAIN | _RAW), None)
        if odd is not None:
            raise ManifestError(
                where=f"{self.where}, key {odd!r}",
                found=f"the format {formats[self.keys.index(odd)]!r}",
                expected=f"one of {', '.join(sorted(_PLAIN | _RAW))}; a pickle runs code when it is read",
                fix="store images and sounds as the bytes of their files, labels as text or numbers",
            )

    def open(self) -> Any:
        """The reader, which gives a sample for its position."""
        from litdata.streaming.serializers import BytesSerializer

        raw = {name: BytesSerializer() for name in _RAW}
        return import_litdata().StreamingDataset(str(self.folder), serializers=raw)


def import_litdata() -> Any:
    """The package `litdata`.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import litdata
    except ImportError as error:
        raise ConfigError(
            where="LitDataStream",
            found="no package litdata",
            expected="it to be installed",
            fix="pip install lightning-distill[litdata]",
        ) from error
    return litdata


def _by_split(folder: str | dict[str, str], where: str) -> dict[str, Path]:
    given = {"train": folder} if isinstance(folder, str) else folder
    odd = next((split for split in given if split not in SPLIT_NAMES), None)
    if odd is not None or not given or any("://" in str(path) for path in given.values()):
        raise ConfigError(
            where=where,
            found="no folder" if not given else f"{given}{nearest(odd or '', SPLIT_NAMES)}",
            expected=f"a folder of this machine for some of {', '.join(SPLIT_NAMES)}",
            fix="correct the name; mount a bucket to read from it",
        )
    return {SPLITS[SPLIT_NAMES[split]]: Path(path) for split, path in given.items()}


def _bytes(cell: Any) -> Any:
    """Litdata gives views of the chunk's memory, which the chunk may not outlive."""
    return bytes(cell) if isinstance(cell, memoryview | bytearray) else cell


def _text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell or None
    return bytes(cell).decode() if isinstance(cell, bytes | memoryview) else str(cell)
