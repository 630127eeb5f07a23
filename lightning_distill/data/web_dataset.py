"""Samples in WebDataset tar shards, read one shard after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from lightning_distill.data.content_source import PlacedTable
from lightning_distill.data.part_stream import PartStream
from lightning_distill.data.shard_members import ShardSample, follow
from lightning_distill.data.shard_names import Shards, find_shards
from lightning_distill.data.shard_sizes import shard_sizes
from lightning_distill.data.shard_table import Row, read_cells, refuse_lacking
from lightning_distill.data.shards import ShardFiles, refuse_pickles
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
from lightning_distill.data.table_source import TableLayout
from lightning_distill.data.targets import SingleLabel, Target
from lightning_distill.errors import ManifestError

_BLOCK: Final = 32


class WebDatasetStream(PartStream):
    """Samples in tar files as WebDataset writes them, for more data than an index is wanted of.

    Modalities, target and columns are those of `ShardSource`, which is the better choice where the shards are
    on a local disk: it shuffles an epoch as a whole. This one reads no image before it is needed. Shards must
    be files of this machine, which a mounted network folder or bucket is; on other machines under the same
    names. Training draws from the shards in an order of their own each epoch, and then from a buffer.

    Args:
        shards: Tar files: a name, a pattern such as `train-{000..999}.tar` or `train-*.tar`, or a list of
            them, to train on; or those of each split, {train: ..., val: ...}.
        modalities: modality -> its extensions, for example {image: "jpg;png", text: txt, audio: "wav;flac"}.
        target: Which columns hold the labels; None is `SingleLabel("cls")`. It must name its classes.
        buffer: Samples among which each process or worker draws the next one; they fill its memory.
        readers: Places each process reads at in turn; the number of workers should divide it.
        sizes: JSON file {name of the shard: samples}; None counts, which reads all headers the first time.

    Raises:
        ConfigError: If a setting is wrong, or classes are not named.
        ManifestError: If a shard is damaged or compressed, or a column is missing; later, if a member is
            wrong, or the members of a sample do not follow each other.
    """

    def __init__(
        self,
        shards: Shards,
        modalities: dict[str, str],
        target: Target | None = None,
        buffer: int = 1000,
        readers: int = 4,
        sizes: str | None = None,
    ) -> None:
        name = type(self).__name__
        check_stream(name, modalities, buffer, readers)
        self._layout = TableLayout(dict(modalities), target or SingleLabel("cls"))
        refuse_pickles(name, self._layout)
        self.classes = stream_classes(self._layout.target, name)
        self.modalities, self.buffer, self.readers = tuple(modalities), buffer, readers
        paths: dict[str, list[Path]] = {}
        for split, path in find_shards(shards, f"{name}.shards"):
            paths.setdefault(SPLITS[SPLIT_NAMES[split or "train"]], []).append(path)
        self.splits = tuple(paths)
        self._files = {split: ShardFiles(found) for split, found in paths.items()}
        given = None if sizes is None else Path(sizes)
        self._sizes = {split: shard_sizes(found, given) for split, found in paths.items()}
        told = [(split, str(p), p.stat().st_size) for split, found in paths.items() for p in found]
        self.fingerprint = xxhash.xxh3_128_hexdigest(repr((told, self._sizes)).encode())
        looks = [self._look(split) for split in self.splits]
        self._weighted = any(WEIGHT in there for there in looks)

    def sizes(self, split: str) -> Sequence[int]:
        """Samples in each shard."""
        return self._sizes[split]

    def part_name(self, split: str, part: int) -> str:
        """The file."""
        return str(self._files[split].paths[part])

    def walk(self, split: str, part: int, first: int) -> Iterator[StreamSample]:
        """Read a shard; what comes before `first` is passed over by its headers."""
        samples, at = islice(follow(self._files[split].paths[part]), first, None), first
        while block := list(islice(samples, _BLOCK)):
            yield from self._samples(self._rows(split, part, block), at)
            at += len(block)

    def load(self, sample: StreamSample, modality: str) -> Any:
        """Decode an image or a sound; a text is what it is."""
        return decoded(sample, modality, self._layout.modalities[modality])

    def _rows(self, split: str, part: int, samples: Sequence[ShardSample]) -> list[Row]:
        return [Row(part, self._files[split].paths[part], split, sample) for sample in samples]

    def _look(self, split: str) -> frozenset[str]:
        """Columns of the first samples, which must show all that are asked for."""
        part = next((part for part, size in enumerate(self.sizes(split)) if size), None)
        if part is None:
            raise ManifestError(
                where=self.part_name(split, 0) + (" and others" if len(self.sizes(split)) > 1 else ""),
                found="no samples",
                expected="members such as 000017.jpg and 000017.cls",
                fix="write the shards again",
            )
        rows = self._rows(split, part, list(islice(follow(self._files[split].paths[part]), _BLOCK)))
        there = read_cells(rows, self._layout, self._kept(), self._files[split].read)[1]
        refuse_lacking(rows, self._layout, there)
        return there

    def _kept(self) -> frozenset[str]:
        return frozenset(column for m, column in self._layout.modalities.items() if m in MEDIA)

    def _samples(self, rows: Sequence[Row], first: int) -> Iterator[StreamSample]:
        import pyarrow as pa

        files, held = self._files[rows[0].split], dict[int, bytes]()

        def read(shard: int, offset: int, size: int) -> bytes:
            if offset not in held:
                held[offset] = files.read(shard, offset, size)
            return held[offset]

        cells, _ = read_cells(rows, self._layout, self._kept(), read)
        raw: dict[str, list[Any]] = {}
        for modality, column in self._layout.modalities.items():
            raw[modality] = cells[column]
            if modality in MEDIA:
                members = [row.find(column) for row in rows]
                raw[modality] = [None if m is None else held[m.offset] for m in members]
        if self._weighted:  # in each block, or in none
            cells.setdefault(WEIGHT, [None] * len(rows))
        else:
            cells.pop(WEIGHT, None)
        columns = {name: pa.array(texts, pa.large_string()) for name, texts in cells.items()}
        line = np.arange(first, first + len(rows))
        table = PlacedTable(str(rows[0].path), columns, line, lambda row: str(rows[row]))
        return stream_samples(table, self._layout.modalities, self._layout.target, raw)
