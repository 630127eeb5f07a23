"""From a file or folder to a plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from lightning_distill.commands.init.columns import Columns, columns_of
from lightning_distill.commands.init.measures import measure_images, measure_sounds, measure_texts
from lightning_distill.commands.init.parts import Part, Spec, audio_part, image_part, text_part
from lightning_distill.commands.init.plan import Plan, named
from lightning_distill.commands.init.roles import Roles, roles_of
from lightning_distill.commands.init.splitting import splitter_of
from lightning_distill.data.folder import FolderSource
from lightning_distill.data.manifest import ManifestSource
from lightning_distill.data.splits import ColumnSplit, Splitter
from lightning_distill.data.table_folder import read_folder
from lightning_distill.data.table_source import ManifestColumns
from lightning_distill.data.targets import Labels, MultiLabel, SingleLabel, Target
from lightning_distill.errors import ConfigError, ManifestError

_COUNTED: Final = 20_000


def look(data: Path, label: str | None) -> Plan:
    """Look at a table or a folder of class folders.

    Args:
        data: The file or folder.
        label: Column of the labels, where the user named it.

    Raises:
        ConfigError: If there is no telling what is what.
        ManifestError: If the data cannot be read.
    """
    if data.is_dir():
        return _look_at_folder(data, label)
    columns = columns_of(data)
    roles = roles_of(columns, label)
    labels = roles.target.read(columns.table)
    splitter = splitter_of(columns, roles, labels)
    init_args: dict[str, Any] = {
        "path": shown(data),
        "modalities": roles.modalities,
        "target": _target(roles.target),
    }
    renamed = {role: column for role, column in roles.named.items() if role != column}
    if renamed:
        init_args["columns"] = named(ManifestColumns, **renamed)
    init_args["splitter"] = _splitter(splitter)
    return _plan(data, columns, roles, labels, named(ManifestSource, **init_args), splitter)


def _look_at_folder(root: Path, label: str | None) -> Plan:
    if label is not None:
        raise ConfigError(
            where="command line",
            found=f"--label {label} with a folder",
            expected="no column: the folders are the classes",
            fix="leave --label out, or name a table",
        )
    modality = _modality_of(root)
    table = read_folder(root, FolderSource.suffixes[modality])
    columns = Columns(table, root)
    roles = Roles(SingleLabel("label"), {modality: "path"}, "split" if "split" in table.columns else None)
    labels = roles.target.read(table)
    splitter = splitter_of(columns, roles, labels)
    source = named(FolderSource, root=shown(root), modality=modality, splitter=_splitter(splitter))
    return _plan(root, columns, roles, labels, source, splitter)


def _plan(
    data: Path, columns: Columns, roles: Roles, labels: Labels, source: Spec, splitter: Splitter
) -> Plan:
    parts = {m: _part(m, columns, roles) for m in roles.modalities}
    told = roles.told() if source["class_path"] == ManifestSource.__name__ else "The folders are the classes."
    kept = "a row is" if roles.group is None else "a group is"
    split = f"Split by {_said(splitter)}: {kept} drawn by its name or content, so added rows move no other."
    if isinstance(splitter, ColumnSplit):
        split = f"Split as the {'column' if data.is_file() else 'folders'} {splitter.column!r} says."
    return Plan(shown(data), source, parts, roles.target, labels.names, columns.rows, told, split)


def _part(modality: str, columns: Columns, roles: Roles) -> Part:
    column = columns.all[roles.modalities[modality]]
    if modality == "image":
        return image_part(measure_images(column, columns.root))
    if modality == "text":
        return text_part(measure_texts(column))
    return audio_part(measure_sounds(column, columns.root))


def _target(target: Target) -> Spec:
    if isinstance(target, SingleLabel):
        return named(SingleLabel, column=target.column)
    if isinstance(target, MultiLabel):
        return named(MultiLabel, column=target.column, separator=target.separator)
    return named(type(target), columns=list(target.columns))


def _splitter(splitter: Splitter) -> Spec:
    names = (
        ("column",) if isinstance(splitter, ColumnSplit) else ("column", "val_share", "test_share", "seed")
    )
    return named(
        type(splitter), **{name: getattr(splitter, name) for name in names if hasattr(splitter, name)}
    )


def _said(splitter: Splitter) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in _splitter(splitter)["init_args"].items())
    return f"{type(splitter).__name__}({arguments})"


def _modality_of(root: Path) -> str:
    """Of most of the files."""
    counts = dict.fromkeys(FolderSource.suffixes, 0)
    seen = 0
    for _, _, files in os.walk(root):
        for name in files:
            for modality, suffixes in FolderSource.suffixes.items():
                counts[modality] += name.lower().endswith(suffixes)
        seen += len(files)
        if seen > _COUNTED:
            break
    best = max(counts, key=counts.__getitem__)
    if not counts[best]:
        raise ManifestError(
            where=root,
            found=f"no image and no sound among {seen} files",
            expected="root/CLASS/file or root/SPLIT/CLASS/file",
            fix="name the table itself where there is one (.csv, .tsv, .jsonl, .parquet)",
        )
    return best


def shown(path: Path) -> str:
    """A path as it is typed in the current folder, absolute where it lies elsewhere."""
    absolute, here = path.absolute(), Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()
