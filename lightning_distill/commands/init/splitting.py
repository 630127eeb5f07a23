"""How the rows of a table are split where no column says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.commands.init.columns import Columns
from lightning_distill.commands.init.roles import Roles
from lightning_distill.data.annotations import content_ids
from lightning_distill.data.source import SPLITS
from lightning_distill.data.splits import ColumnSplit, GroupSplit, RandomSplit, Splitter
from lightning_distill.data.targets import Labels
from lightning_distill.errors import ManifestError
from lightning_distill.structures import UNLABELLED

_SHARES: Final = (0.1, 0.2)
_SEEDS: Final = range(20)
_ENOUGH: Final = 0.9
"""Share of the classes of all splits that must be there for the smallest shares to do."""
_TRAIN: Final = 0.6
"""Share of the rows that should train."""


def splitter_of(columns: Columns, roles: Roles, labels: Labels) -> Splitter:
    """What splits the table: its column, or chance, whole groups at a time where there are groups.

    Args:
        columns: All columns.
        roles: What they are.
        labels: Of the rows.

    Raises:
        ManifestError: If a split is left without rows.
    """
    ids = content_ids(columns.table, roles.modalities)

    if roles.split is not None:
        given = ColumnSplit(roles.split)
        split = given.split(columns.table, ids, labels.values)
        _refuse_missing(columns, roles.split, np.bincount(split, minlength=len(SPLITS)))
        return given
    fallback = None
    for share in _SHARES:
        tries = [_by_chance(roles.group, share, seed) for seed in _SEEDS]
        splits = ((one, one.split(columns.table, ids, labels.values)) for one in tries)
        rated = ((one, *_rate(labels, split)) for one, split in splits)
        best, train, all_of = _best(rated)
        if train == 1 and all_of >= _ENOUGH:
            return best
        if fallback is None and all_of > 0:
            fallback = best
    if fallback is not None:
        return fallback
    raise ManifestError(
        where=columns.table.path,
        found=f"{columns.rows} rows" + (f" in few groups of column {roles.group!r}" if roles.group else ""),
        expected="enough to train, validate and test on",
        fix="add rows, or a column `split` that says train, val or test for each",
    )


def _by_chance(group: str | None, share: float, seed: int) -> Splitter:
    return RandomSplit(share, share, seed) if group is None else GroupSplit(group, share, share, seed)


def _rate(labels: Labels, split: NDArray[np.int8]) -> tuple[float, float]:
    """Share of the classes that train, and share of the classes of all splits; 0 where a split is empty.

    The latter is less where few rows are left to train on.
    """
    if len(np.unique(split)) < len(SPLITS):
        return 0.0, 0.0
    enough = min(1.0, float((split == 0).mean()) / _TRAIN)
    if labels.values.ndim == 2:
        return 1.0, enough
    known = labels.values != UNLABELLED
    cells = np.unique(split[known] * len(labels.names) + labels.values[known])
    count = len(labels.names)
    return int((cells < count).sum()) / count, enough * len(cells) / (count * len(SPLITS))


def _best(rated: Iterable[tuple[Splitter, float, float]]) -> tuple[Splitter, float, float]:
    """The first that is perfect, else the best."""
    best: tuple[Splitter, float, float] | None = None
    for one in rated:
        if best is None or one[1:] > best[1:]:
            best = one
        if best[1:] == (1.0, 1.0):
            break
    assert best is not None
    return best


def _refuse_missing(columns: Columns, column: str, counts: NDArray[np.int64]) -> None:
    missing = [name for name, count in zip(SPLITS[:2], counts, strict=False) if not count]
    if missing:
        told = ", ".join(f"{count} {name}" for name, count in zip(SPLITS, counts, strict=True))
        raise ManifestError(
            where=f"{columns.table.path}, column {column!r}",
            found=f"no {' and no '.join(missing)} rows ({told})",
            expected="rows to train on and rows to choose the best model on",
            fix=f"change some cells of column {column!r} to {missing[0]!r}; test rows should stay test rows",
        )
