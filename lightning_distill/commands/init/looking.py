"""From a file or folder to a plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from lightning_distill.commands.init.columns import Columns, columns_of
from lightning_distill.commands.init.contents import is_saved, is_shards, look_into
from lightning_distill.commands.init.measures import files_of
from lightning_distill.commands.init.parts import Spec
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
from lightning_distill.commands.init.splitting import splitter_of
from lightning_distill.data.folder import FolderSource
from lightning_distill.data.manifest import ManifestSource
from lightning_distill.data.splits import Splitter
from lightning_distill.data.table_folder import read_folder
from lightning_distill.data.targets import Labels, SingleLabel
from lightning_distill.errors import ConfigError, ManifestError

_COUNTED: Final = 20_000


def look(data: Path, label: str | None) -> Plan:
    """Look at a table, a folder of class folders, shards, or a saved data set.

    Args:
        data: The file or folder.
        label: Column of the labels, where the user named it.

    Raises:
        ConfigError: If there is no telling what is what.
        ManifestError: If the data cannot be read.
    """
    if is_shards(data) or is_saved(data):
        return look_into(data, label)
    if data.is_dir():
        return _look_at_folder(data, label)
    columns = columns_of(data)
    roles = roles_of(columns, label)
    labels = roles.target.read(columns.table)
    splitter = splitter_of(columns, roles, labels)
    init_args: dict[str, Any] = {
        "path": shown(data),
        "modalities": roles.modalities,
        "target": target_spec(roles.target),
    }
    init_args |= columns_spec(roles.named)
    init_args["splitter"] = splitter_spec(splitter)
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
    source = named(FolderSource, root=shown(root), modality=modality, splitter=splitter_spec(splitter))
    return _plan(root, columns, roles, labels, source, splitter)


def _plan(
    data: Path, columns: Columns, roles: Roles, labels: Labels, source: Spec, splitter: Splitter
) -> Plan:
    parts = {}
    for modality, name in roles.modalities.items():
        column = columns.all[name]
        parts[modality] = part_of(modality, column.cells, files_of(column, columns.root))
    told = roles.told() if data.is_file() else "The folders are the classes."
    split = told_split(splitter, "column" if data.is_file() else "folders")
    return Plan(shown(data), source, parts, roles.target, labels.names, columns.rows, told, split)


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
