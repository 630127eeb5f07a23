"""How the rows of a table are split where no column says so."""

from __future__ import annotations

from itertools import product
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

_SHARES: Final = (0.1, 0.2, 0.3)
_SEEDS: Final = range(20)


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
    for share, seed in product(_SHARES, _SEEDS):
        splitter = _by_chance(roles.group, share, seed)
        split = splitter.split(columns.table, ids, labels.values)
        if len(np.unique(split)) == len(SPLITS):
            if _trains_all(labels, split):
                return splitter
            fallback = fallback or splitter
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


def _trains_all(labels: Labels, split: NDArray[np.int8]) -> bool:
    """Whether each class has a training row."""
    if labels.values.ndim == 2:
        return True
    train = labels.values[split == 0]
    return set(train[train != UNLABELLED]) == set(range(len(labels.names)))


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
