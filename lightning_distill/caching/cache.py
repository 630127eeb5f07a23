"""Answers in a folder whose name is a hash of all they depend on: if anything differs, nothing is found.

ROOT/KEY/space.json     what KEY is the hash of, and what a record holds
ROOT/KEY/*.index/.data  the records, see `lightning_distill.storage`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from lightning_distill.caching.answers import AnswerFormat
from lightning_distill.errors import CacheError, ConfigError
from lightning_distill.storage import MISSING, Mended, RecordLayout, RecordStore, SegmentWriter, mend
from lightning_distill.structures import ModelOutput

FORMAT: Final = 1
"""Version of the folder."""
CONTENT: Final = "space.json"


class AnswerCache:
    """The answers of one teacher under one set of circumstances.

    Args:
        root: Folder of all caches.
        depends_on: All that every answer depends on, as plain values.
        answers: What is kept of an answer.

    Raises:
        CacheError: If what is there is damaged or of another version.
    """

    def __init__(self, root: Path, depends_on: Mapping[str, Any], answers: AnswerFormat) -> None:
        self.answers = answers
        self.depends_on = {
            "cache format": FORMAT,
            "lightning_distill": version("lightning-distill"),
            **depends_on,
        }
        key = xxhash.xxh3_128_hexdigest(json.dumps(self.depends_on, sort_keys=True).encode())
        self.folder, self._space = root / key, int(key[:16], 16)
        self._layout: RecordLayout | None = None
        self._store: RecordStore | None = None
        self._writer: SegmentWriter | None = None
        self._open()

    def _open(self) -> None:
        path = self.folder / CONTENT
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            told = json.loads(raw)
            check = told.pop("check")
            if told["depends_on"] != self.depends_on or check != _check(told):
                raise ValueError("other content than was written")
            self._layout = RecordLayout.of_plain(told["record"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(
                where=path,
                found=error,
                expected="what a teacher's cache was made for",
                fix="remove that folder; its answers are computed again",
            ) from error
        self._store = RecordStore(self.folder, self._space, self._layout.size)

    def __len__(self) -> int:
        return 0 if self._store is None else len(self._store)

    def refresh(self) -> None:
        """Look for what others have committed since.

        Raises:
            CacheError: If it is damaged.
        """
        if self._store is None:
            self._open()
        else:
            self._store.refresh()

    def mend(self, remove: bool = True) -> Mended:
        """Read everything; take out what is damaged.

        Args:
            remove: False only looks.

        Raises:
            CacheError: If another process is mending.
        """
        if self._layout is None:
            return Mended(0, (), 0)
        mended = mend(self.folder, self._space, self._layout.size, remove)
        if remove:
            self._store = RecordStore(self.folder, self._space, self._layout.size)
        return mended

    # -- reading --------------------------------------------------------------------------------------

    def locate(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where the answers to these keys lie; negative where there is none."""
        return np.full(len(keys), MISSING, np.int64) if self._store is None else self._store.locate(keys)

    def records(self, places: NDArray[np.int64]) -> Tensor:
        """Records "batch bytes", uint8.

        Args:
            places: As `locate` gave them, none negative.

        Raises:
            CacheError: If one is not as it was written.
        """
        assert self._store is not None
        return self._store.take(places)

    def output(self, records: Tensor) -> ModelOutput:
        """The answers in records, on their device."""
        assert self._layout is not None
        return self.answers.output(self._layout.decode(records))

    # -- writing --------------------------------------------------------------------------------------

    def encode(self, output: ModelOutput) -> Tensor:
        """Records of new answers, on their device.

        Raises:
            ConfigError: If they have other shapes than those that are there, or are too large for the dtype.
        """
        tensors = self.answers.tensors(output)
        layout = self.answers.layout(tensors)
        if self._layout is None:
            self._layout = layout
        elif [field.name for field in layout.fields] != [field.name for field in self._layout.fields]:
            raise ConfigError(
                where=self.folder,
                found=f"answers with {', '.join(tensors)}",
                expected=f"{', '.join(field.name for field in self._layout.fields)}, as before",
                fix="remove the folder",
            )
        return self._layout.encode(tensors)

    def add(self, keys: NDArray[np.uint64], records: Tensor) -> None:
        """Append answers; found after `commit` and `refresh`.

        Args:
            keys: "batch".
            records: As `encode` gave them.

        Raises:
            OSError: If the disk refuses.
        """
        assert self._layout is not None
        if self._writer is None:
            self._describe()
            self._writer = SegmentWriter(self.folder, self._space, self._layout.size)
        self._writer.add(keys, records.cpu().numpy())

    def _describe(self) -> None:
        assert self._layout is not None
        path = self.folder / CONTENT
        if path.exists():
            return
        told: dict[str, Any] = {"depends_on": self.depends_on, "record": self._layout.plain()}
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**told, "check": _check(told)}, indent=1), encoding="utf-8")
        os.replace(partial, path)

    def commit(self) -> None:
        """Let what was added count.

        Raises:
            OSError: If the disk refuses.
        """
        if self._writer is not None:
            self._writer.commit()

    def close(self) -> None:
        """Commit, and write into this segment no more.

        Raises:
            OSError: If the disk refuses.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _check(told: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(told, sort_keys=True).encode())
