"""Parts of a data source as a config names them, and as a sentence does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_distill.commands.init.measures import measure_images, measure_sounds, measure_texts
from lightning_distill.commands.init.parts import Part, Spec, audio_part, image_part, text_part
from lightning_distill.commands.init.plan import named
from lightning_distill.data.splits import ColumnSplit, GroupSplit, Splitter
from lightning_distill.data.table_source import ManifestColumns
from lightning_distill.data.targets import MultiLabel, SingleLabel, Target


def part_of(modality: str, texts: Sequence[str], files: Iterable[bytes]) -> Part:
    """Encoder and processor of a modality.

    Args:
        modality: "image", "text" or "audio".
        texts: Some of them, if it is "text".
        files: The content of some, else.
    """
    if modality == "text":
        return text_part(measure_texts(texts))
    return image_part(measure_images(files)) if modality == "image" else audio_part(measure_sounds(files))


def target_spec(target: Target) -> Spec:
    """How labels are read; names of classes are left to the data."""
    if isinstance(target, SingleLabel):
        return named(SingleLabel, column=target.column)
    if isinstance(target, MultiLabel):
        return named(MultiLabel, column=target.column, separator=target.separator)
    return named(type(target), columns=list(target.columns))


def columns_spec(roles: Mapping[str, str]) -> dict[str, Spec]:
    """The argument `columns`, where domain, weight or sample id have other names than these."""
    renamed = {role: column for role, column in roles.items() if role != column}
    return {"columns": named(ManifestColumns, **renamed)} if renamed else {}


def splitter_spec(splitter: Splitter) -> Spec:
    """Which rows train, validate and test."""
    return named(type(splitter), **_arguments(splitter))


def told_split(splitter: Splitter, of: str) -> str:
    """One line about the split.

    Args:
        splitter: What splits.
        of: What holds the names of splits, where they are told: "column" or "folders".
    """
    if isinstance(splitter, ColumnSplit):
        return f"Split as the {of} {splitter.column!r} says."
    arguments = ", ".join(f"{key}={value!r}" for key, value in _arguments(splitter).items())
    drawn = "groups by their names" if isinstance(splitter, GroupSplit) else "rows by their content"
    return f"Split by {type(splitter).__name__}({arguments}): it draws {drawn}, so added rows move no other."


def _arguments(splitter: Splitter) -> dict[str, Any]:
    names = ["column"] if isinstance(splitter, ColumnSplit) else ["column", "val_share", "test_share", "seed"]
    return {name: getattr(splitter, name) for name in names if hasattr(splitter, name)}


def shown(path: Path) -> str:
    """A path as it is typed in the current folder, absolute where it lies elsewhere."""
    absolute, here = path.absolute(), Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else absolute).as_posix()
