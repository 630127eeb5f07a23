"""Tar shards and saved Hugging Face data sets: what is in them, and a source that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from lightning_distill.commands.init.columns import LOOKED_AT, Columns
from lightning_distill.commands.init.measures import spread
from lightning_distill.commands.init.plan import Plan, named
from lightning_distill.commands.init.roles import Roles, roles_of
from lightning_distill.commands.init.specs import (
    columns_spec,
    part_of,
    shown,
    splitter_spec,
    target_spec,
    told_split,
)
from lightning_distill.data.folder import FolderSource
from lightning_distill.data.hugging_face import HuggingFaceSource
from lightning_distill.data.hugging_face_tables import open_saved, text_column
from lightning_distill.data.shard_members import ShardSample, scan
from lightning_distill.data.shards import ShardFiles, ShardSource
from lightning_distill.data.source import SPLITS
from lightning_distill.data.splits import SPLIT_NAMES, ColumnSplit, GroupSplit, RandomSplit, Splitter
from lightning_distill.data.table_jsonl import read_object, text_of
from lightning_distill.data.table_source import ManifestColumns, TableSource
from lightning_distill.data.tables import TextTable
from lightning_distill.errors import ManifestError

_TEXTS: Final = ("cls", "txt", "text", "caption", "label")
_SAVED: Final = ("dataset_dict.json", "dataset_info.json")
_LONGEST: Final = 1 << 20


def is_shards(data: Path) -> bool:
    """Whether it is a tar file, or a folder with some."""
    return data.suffix == ".tar" or (data.is_dir() and any(data.glob("*.tar")))


def is_saved(data: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote it."""
    return any((data / name).is_file() for name in _SAVED)


def look_into(data: Path, label: str | None) -> Plan:
    """Look at shards or at a saved data set.

    Args:
        data: The file or folder.
        label: Column (or extension) of the labels, where the user named it.

    Raises:
        ConfigError: If there is no telling what is what.
        ManifestError: If the data cannot be read.
    """
    if is_saved(data):
        kind: type[TableSource] = HuggingFaceSource
        place: dict[str, Any] = {"path": shown(data)}
        columns, parts_are_splits = _of_saved(data)
    else:
        kind, place = ShardSource, {"shards": _patterns(data)}
        columns, parts_are_splits = _of_shards(data), isinstance(place["shards"], dict)
    roles = roles_of(columns, label)
    source, splitter = _made(kind, place, roles, parts_are_splits)
    init_args = {**place, "modalities": roles.modalities, "target": target_spec(roles.target)}
    init_args |= columns_spec(roles.named)
    if not parts_are_splits:
        init_args["splitter"] = splitter_spec(splitter)
    parts = {m: part_of(m, *_some(source, m)) for m in roles.modalities}
    split = "Split as the data are." if parts_are_splits else told_split(splitter, "column")
    rows = len(source.samples)
    return Plan(
        shown(data), named(kind, **init_args), parts, roles.target, source.classes, rows, roles.told(), split
    )


def _made(
    kind: Any, place: Mapping[str, Any], roles: Roles, parts_are_splits: bool
) -> tuple[TableSource, Splitter]:
    """The source with the first splitter that leaves no split empty."""
    tries: list[Splitter] = [RandomSplit(share, share, seed) for share in (0.1, 0.2) for seed in range(3)]
    if parts_are_splits:
        tries = [ColumnSplit()]
    elif roles.split is not None:
        tries = [ColumnSplit(roles.split)]
    elif roles.group is not None:
        tries = [GroupSplit(roles.group, one.val_share, one.test_share, one.seed) for one in tries]  # type: ignore[attr-defined]
    counts: dict[str, int] = {}
    for splitter in tries:
        more = {} if parts_are_splits else {"splitter": splitter}
        columns = ManifestColumns(**roles.named)
        source = kind(**place, modalities=roles.modalities, target=roles.target, columns=columns, **more)
        counts = {name: len(source.samples.rows_of(name)) for name in SPLITS}
        if counts["train"] and counts["val"] and (counts["test"] or not isinstance(splitter, RandomSplit)):
            return source, splitter
    raise ManifestError(
        where=next(iter(place.values())),
        found=", ".join(f"{count} {name}" for name, count in counts.items()) + " samples",
        expected="samples to train on, and others to choose the best model on",
        fix="add samples, or a validation split",
    )


def _some(source: TableSource, modality: str) -> tuple[list[str], list[bytes]]:
    """Texts, or the content of files."""
    rows = spread(np.flatnonzero(source.samples.present[modality]).tolist())
    if modality == "text":
        return [source.cell(modality, row) for row in rows], []
    return [], [source.read(modality, row) for row in rows]


# -- saved data sets ------------------------------------------------------------------------------------


def _of_saved(data: Path) -> tuple[Columns, bool]:
    """Some rows of its first part, and whether its parts are splits."""
    import pyarrow as pa

    found = open_saved(data)
    parts = dict(found) if isinstance(found, Mapping) else {"": found}
    part = next(iter(parts.values())).with_format("arrow")
    at = np.linspace(0, len(part) - 1, min(len(part), LOOKED_AT)).astype(np.int64)
    texts, media, left_out = {}, {}, {}
    for name, feature in part.features.items():
        modality = {"Image": "image", "Audio": "audio"}.get(type(feature).__name__)
        if modality is not None:
            media[name] = modality
            texts[name] = pa.array(["-"] * len(at), pa.large_string())
            continue
        try:
            texts[name] = text_column(data, name, part.select_columns([name])[at].column(0), feature)
        except ManifestError as error:
            left_out[name] = error.found
    table = TextTable(data, texts, np.arange(1, len(at) + 1))
    return Columns(table, data, left_out, media), len(parts) > 1


# -- shards ---------------------------------------------------------------------------------------------


def _files(data: Path) -> list[Path]:
    return sorted(data.glob("*.tar")) if data.is_dir() else [data]


def _patterns(data: Path) -> str | dict[str, str]:
    """One pattern, or one for each split where all names begin with those of splits."""
    if not data.is_dir():
        return shown(data)
    starts = sorted({path.name.split("-")[0] for path in _files(data) if "-" in path.name})
    if starts and all(path.name.split("-")[0] in SPLIT_NAMES for path in _files(data)):
        return {start: f"{shown(data)}/{start}-*.tar" for start in starts}
    return f"{shown(data)}/*.tar"


def _of_shards(data: Path) -> Columns:
    """Some samples of all shards: extensions of images and sounds, and texts, also those in json members."""
    import pyarrow as pa

    paths = _files(data)
    files = ShardFiles(paths)
    samples = [(number, sample) for number, path in enumerate(paths) for sample in scan(path)]
    at = np.linspace(0, len(samples) - 1, min(len(samples), LOOKED_AT)).astype(np.int64)
    chosen = [samples[int(i)] for i in at]
    endings = Counter(ending for _, sample in chosen for ending in sample.members)
    media = {}
    for modality, suffixes in FolderSource.suffixes.items():
        there = [ending for ending, _ in endings.most_common() if f".{ending}" in suffixes]
        if there:
            media[";".join(there)] = modality
    rows = [_texts(files, number, sample) for number, sample in chosen]
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name: pa.array([row.get(name) or None for row in rows], pa.large_string()) for name in names}
    for column in media:
        filled = [any(ending in sample.members for ending in column.split(";")) for _, sample in chosen]
        texts[column] = pa.array(["-" if one else None for one in filled], pa.large_string())
    return Columns(TextTable(data, texts, np.arange(1, len(rows) + 1)), data, {}, media)


def _texts(files: ShardFiles, number: int, sample: ShardSample) -> dict[str, str]:
    """Extension, or key of the json member -> text."""
    found: dict[str, str] = {}
    for ending, member in sample.members.items():
        if member.size > _LONGEST or ending not in (*_TEXTS, "json"):
            continue
        data = files.read(number, member.offset, member.size)
        if ending == "json":
            values = read_object(data, f"{files.paths[number]}, member {member.name!r}")
            texts = {key: text_of(value, key) for key, value in values.items() if not isinstance(value, dict)}
            found |= {key: text for key, text in texts.items() if text}
        else:
            found[ending] = data.decode("utf-8", "replace").strip()
    return found
