"""Reads what an offline run of W&B has written: records of its protocol in a file like LevelDB's log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER, _MAGIC = 32768, 7, 7
_WHOLE, _LAST = 1, 4


def records(folder: Path, kind: str) -> Iterator[Any]:
    """All records of one kind, oldest first; the folder is that of one session."""
    (file,) = folder.glob("run-*.wandb")
    data, at, part = file.read_bytes(), _MAGIC, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, piece = struct.unpack("<IHB", data[at : at + _HEADER])
        part += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if piece in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record.FromString(part)
            part = b""
            if record.WhichOneof("record_type") == kind:
                yield getattr(record, kind)


def history(folder: Path) -> list[dict[str, Any]]:
    """Rows, by their dotted keys."""
    return [_values(row.item) for row in records(folder, "history")]


def summary(folder: Path) -> dict[str, Any]:
    """The last value of everything."""
    found: dict[str, Any] = {}
    for record in records(folder, "summary"):
        found |= _values(record.update)
    return found


def config(folder: Path) -> dict[str, Any]:
    """The config, nested."""
    found: dict[str, Any] = {}
    for record in records(folder, "config"):
        found |= {item.key: json.loads(item.value_json) for item in record.update}
    return found


def _values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
