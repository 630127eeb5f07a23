"""The manifest in the middle: whatever a table came from, as one Arrow file, checked once and mapped after.

A file is opened, not read: pages are shared by all processes, and a million rows open in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from lightning_distill.data.source import SampleTable

FORMAT: Final = 1
"""Raise it when what is written changes, so that older files are not used."""
_DIGEST: Final = 16
_MONTH: Final = 30 * 24 * 3600
_CELL, _PRESENT, _META = "cell ", "present ", b"lightning_distill"


@dataclass(frozen=True)
class Index:
    """Rows of a table with all that was made of them.

    Attributes:
        table: Arrow table of one chunk: `cell NAME` large strings, `present NAME` uint8, and `sample_id`,
            `target`, `split`, `domain`, `weight` as in `SampleTable`, `line` int64.
        path: File it is mapped from; None if it is in memory only.
    """

    table: Any
    path: Path | None = None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """`origin`, `classes`, `domains`, `notes`."""
        found: dict[str, Any] = json.loads(self.table.schema.metadata[_META])
        return found

    @cached_property
    def samples(self) -> SampleTable:
        """Views of the file, no copies."""
        present = [n for n in self.table.column_names if n.startswith(_PRESENT)]
        numeric = ("sample_id", "target", "split", "domain")
        return SampleTable(
            **{name: self.numpy(name) for name in numeric},
            present={name.removeprefix(_PRESENT): self.numpy(name).view(np.bool_) for name in present},
            weight=self.numpy("weight") if "weight" in self.table.column_names else np.empty(0, np.float32),
        )

    def numpy(self, name: str) -> NDArray[Any]:
        """A column of numbers."""
        column = self.table.column(name).chunk(0)
        if hasattr(column.type, "list_size"):
            values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
            return values.reshape(len(column), column.type.list_size)
        return np.asarray(column.to_numpy(zero_copy_only=True))

    def cells(self, name: str) -> Any:
        """A column of text, null where the cell is empty."""
        return self.table.column(_CELL + name).chunk(0)

    def has_cells(self, name: str) -> bool:
        """Whether such a column was kept."""
        return _CELL + name in self.table.column_names

    def __getstate__(self) -> dict[str, Any]:
        """A worker process maps the file itself."""
        return {"table": None if self.path else self.table, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table, path = state["table"], state["path"]
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "table", table if path is None else _map(path))


@dataclass(frozen=True)
class Content:
    """What `make_index` writes.

    Attributes:
        cells: name -> Arrow large strings.
        samples: Ids, targets and so on.
        line: Of each row, where an editor shows it.
        meta: Plain values to keep beside.
    """

    cells: Mapping[str, Any]
    samples: SampleTable
    line: NDArray[np.int64]
    meta: Mapping[str, Any] = field(default_factory=dict)


def make_index(content: Content) -> Index:
    """Put the columns together, in memory."""
    import pyarrow as pa

    samples = content.samples
    columns: dict[str, Any] = {_CELL + name: cells for name, cells in content.cells.items()}
    columns |= {_PRESENT + m: pa.array(p.view(np.uint8)) for m, p in samples.present.items()}
    for name in ("sample_id", "split", "domain"):
        columns[name] = pa.array(getattr(samples, name))
    target = samples.target
    columns["target"] = (
        pa.array(target)
        if target.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(target.ravel()), target.shape[1])
    )
    if len(samples.weight):
        columns["weight"] = pa.array(samples.weight)
    columns["line"] = pa.array(content.line)
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(dict(content.meta))})
    return Index(table.combine_chunks())


def extended(index: Index, cells: Mapping[str, Any], numbers: Mapping[str, NDArray[np.int64]]) -> Index:
    """An index with more columns, in memory.

    Args:
        index: The index.
        cells: name -> Arrow large strings.
        numbers: name -> int64, with a name no column of the index has.
    """
    import pyarrow as pa

    table = index.table
    for name, column in cells.items():
        table = table.append_column(_CELL + name, column)
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values))
    return Index(table.combine_chunks())


def digest_of(path: Path) -> str:
    """128 bits of xxh3 over the content of a file, hexadecimal."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return xxhash.xxh3_128_hexdigest(content)


def cached_index(settings: Sequence[object], build: Callable[[], Index]) -> tuple[Index, bool]:
    """The index made from these settings before, or a new one, kept for the next time.

    Files are in `$LIGHTNING_DISTILL_CACHE`, else in `lightning_distill` of the user's cache folder. A damaged
    one is made again. One that nobody opened for a month is removed.

    Args:
        settings: All that the index depends on, with a stable `repr`.
        build: Makes it.

    Returns:
        The index, and whether it was new.
    """
    key = xxhash.xxh3_128_hexdigest(repr([version("lightning-distill"), FORMAT, *settings]).encode())
    path = cache_folder() / f"{key}.arrow"
    with contextlib.suppress(OSError, ValueError):
        index = Index(_map(path), path)
        os.utime(path)
        return index, False
    index = build()
    try:
        _write(index, path)
        return Index(_map(path), path), True
    except (OSError, ValueError):
        return index, True  # no place to keep it: this run has it in memory


def cache_folder() -> Path:
    """Where indexes are kept."""
    given = os.environ.get("LIGHTNING_DISTILL_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else home / "lightning_distill"


def _map(path: Path) -> Any:
    """Map a file and check its content against the digest at its end.

    Raises:
        OSError: If it is not there.
        ValueError: If it is damaged.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        size = file.size()
        content = file.read_buffer(max(size - _DIGEST, 0))
        digest = file.read_buffer(_DIGEST).to_pybytes()
    if size <= _DIGEST or xxhash.xxh3_128_digest(content) != digest:
        raise ValueError(f"{path} is damaged")
    return pa.ipc.open_stream(content).read_all()


def _write(index: Index, path: Path) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, index.table.schema) as writer:
            writer.write_table(index.table)
        content = sink.getvalue()
        with partial.open("wb") as file:
            file.write(content)
            file.write(xxhash.xxh3_128_digest(content))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    for old in (*folder.glob("*.arrow"), *folder.glob(".*.partial")):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _MONTH:
                old.unlink()
