"""Hugging Face data sets that are streamed: walked from the beginning, a block at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.data.content_source import PlacedTable, content_digest
from lightning_distill.data.hugging_face_tables import (
    choose_columns,
    import_datasets,
    media_bytes,
    named_target,
    open_saved,
    split_of,
    text_column,
)
from lightning_distill.data.source import SPLITS
from lightning_distill.data.stream import StreamSample, StreamSource
from lightning_distill.data.stream_rows import (
    MEDIA,
    WEIGHT,
    check_stream,
    decoded,
    stream_classes,
    stream_samples,
)
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ConfigError, DistillError, ManifestError

_BLOCK: Final = 64


class HuggingFaceStream(StreamSource):
    """Samples of a `datasets` IterableDataset, as `HuggingFaceSource` reads those of a Dataset.

    What is on disk is better read by `HuggingFaceSource` or `ManifestSource`, which shuffle an epoch as a
    whole. A column "weight" is the weight in the task's loss.

    Args:
        path: Folder with Parquet, JSON Lines, CSV or Arrow files, or one that `save_to_disk` wrote; or, in
            Python, an IterableDataset or a dict of them by split. Cells that hold the path of a file in place
            of its content are read only in the latter case. An IterableDataset that is not in a dict is what
            is trained on.
        modalities: modality -> name of its column.
        target: Which columns hold the labels; None is `SingleLabel()`. It must name its classes, unless the
            column is a ClassLabel.
        buffer: Samples among which training draws the next one. Large ones shuffle better and fill the memory
            of every worker.

    Raises:
        ConfigError: If a setting is wrong, classes are not known, or `datasets` is not installed.
        ManifestError: If the data set cannot be read; later, if a column or a row is wrong.
    """

    def __init__(
        self, path: Any, modalities: dict[str, str], target: Target | None = None, buffer: int = 1000
    ) -> None:
        name = type(self).__name__
        check_stream(name, modalities, buffer)
        self._trusted = not isinstance(path, str | Path)
        self._name = type(path).__name__ if self._trusted else str(path)
        parts = path if self._trusted else _open(Path(path))
        self._parts = _by_split(parts, self._name, name)
        self._columns, self.modalities, self.buffer = dict(modalities), tuple(modalities), buffer
        self.splits = tuple(self._parts)
        features = next(iter(self._parts.values())).features
        self._target = named_target(target or SingleLabel(), features)
        self._parts = {split: self._prepared(split, part) for split, part in self._parts.items()}
        self.classes = stream_classes(self._target, name)
        self.fingerprint = "" if self._trusted else _files_digest(Path(path))

    def _prepared(self, split: str, part: Any) -> Any:
        """A split that reads only what is needed, where its columns are known, and decodes nothing."""
        if part.features:
            names = [*self._columns.values(), *self._target.columns]
            part = part.select_columns(
                choose_columns(self._origin(split), list(part.features), names, [WEIGHT])
            )
        return part.with_format("arrow")

    def _origin(self, split: str) -> str:
        return f"{self._name}[{split!r}]"

    def stream(self, split: str, epoch: int) -> Iterator[StreamSample]:
        """Walk a split; one that shuffles itself is told the epoch."""
        part, position = self._parts[split], 0
        part.set_epoch(epoch)
        origin, blocks = self._origin(split), iter(part.iter(_BLOCK))
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                return
            except DistillError:
                raise
            except Exception as error:  # datasets and Arrow raise what they like
                raise ManifestError(
                    where=f"{origin}, after row {position}",
                    found=f"rows that cannot be read ({' '.join(str(error).split())})",
                    expected="rows as those before",
                    fix="repair or leave out the file they are in",
                ) from error
            yield from self._samples(block, origin, part.features or {}, position)
            position += len(block)

    def load(self, sample: StreamSample, modality: str) -> Any:
        """Decode an image or a sound; a text is what it is."""
        return decoded(sample, modality, self._columns[modality])

    def _samples(
        self, block: Any, origin: str, features: Mapping[str, Any], start: int
    ) -> Iterator[StreamSample]:
        import pyarrow as pa

        def place(row: int) -> str:
            return f"{origin}, row {start + row}"

        wanted = [*self._columns.values(), *self._target.columns]
        raw: dict[str, Sequence[Any]] = {}
        columns: dict[str, Any] = {}
        by_column = {column: modality for modality, column in self._columns.items()}
        for name in choose_columns(origin, block.column_names, wanted, [WEIGHT]):
            modality = by_column.get(name, "")
            if modality in MEDIA:
                cells = [
                    media_bytes(cell.as_py(), f"{place(row)}, column {name!r}", self._trusted)
                    for row, cell in enumerate(block.column(name))
                ]
                raw[modality] = cells
                digests = [None if data is None else content_digest(data) for data in cells]
                columns[name] = pa.array(digests, pa.large_string())
                continue
            columns[name] = text_column(place(0), name, block.column(name), features.get(name))
            if modality:
                raw[modality] = columns[name].to_pylist()
        table = PlacedTable(self._name, columns, np.arange(start, start + len(block)), place)
        yield from stream_samples(table, self._columns, self._target, raw)


def _open(path: Path) -> Mapping[str, Any]:
    """The streams in a folder, by split."""
    datasets = import_datasets()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = open_saved(path)
        parts = saved if isinstance(saved, Mapping) else {"train": saved}
        return {name: part.to_iterable_dataset() for name, part in parts.items()}
    try:
        if not path.is_dir():  # any other name would be looked for on the network
            raise FileNotFoundError("no such folder")
        found: Mapping[str, Any] = datasets.load_dataset(str(path.absolute()), streaming=True)
    except Exception as error:  # datasets and Arrow raise what they like
        raise ManifestError(
            where=path,
            found=f"nothing that can be streamed ({' '.join(str(error).split())})",
            expected="a folder with Parquet, JSON Lines, CSV or Arrow files",
            fix="correct the path",
        ) from error
    return found


def _by_split(parts: Any, origin: str, where: str) -> dict[str, Any]:
    datasets = import_datasets()
    found: dict[str, Any] = {}
    for name, part in (parts if isinstance(parts, Mapping) else {"train": parts}).items():
        if not isinstance(part, datasets.IterableDataset):
            raise ConfigError(
                where=f"{where}.path",
                found=type(part).__name__,
                expected="a folder, an IterableDataset, or a dict of them",
                fix="use HuggingFaceSource for a Dataset",
            )
        found[SPLITS[split_of(name, origin)]] = part
    if not found:
        raise ManifestError(where=origin, found="no splits", expected="one or more", fix="correct the path")
    return found


def _files_digest(folder: Path) -> str:
    """What tells whether the files of a folder are still the same: their names and sizes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
    return digest.hexdigest()
