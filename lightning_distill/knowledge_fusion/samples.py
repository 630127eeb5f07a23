"""Which samples are fused, and what training sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data.source import SPLITS, DataSource
from lightning_distill.errors import ConfigError, nearest
from lightning_distill.knowledge import Knowledge
from lightning_distill.structures import UNLABELLED


class FusedSamples(NamedTuple):
    """Samples by ascending id.

    Attributes:
        sample_id: int64 "samples".
        target: bool "samples", of a new domain.
        label: int64 "samples", of training rows; `UNLABELLED` elsewhere.
    """

    sample_id: NDArray[np.int64]
    target: NDArray[np.bool_]
    label: NDArray[np.int64]


def samples_of(
    source: DataSource, first: Knowledge, targets: Sequence[str], splits: Sequence[str]
) -> FusedSamples:
    """The samples that are fused; one of several rows has the first label that a training row gives it.

    Args:
        source: Of all domains.
        first: What it does not know is left out.
        targets: Names of the new domains.
        splits: Whose samples are taken.

    Raises:
        ConfigError: If a name is wrong, targets are no classes, or there is no sample of the new domains.
    """
    _check(source, targets, splits)
    table = source.samples
    rows = np.concatenate([table.rows_of(split) for split in dict.fromkeys(splits)])
    rows = rows[np.isin(table.sample_id[rows], first.sample_id)]
    new = np.isin(table.domain[rows], [source.domains.index(name) for name in targets])
    if not new.any():
        raise ConfigError(
            where=f"fuse, {first.folder}",
            found=f"{len(rows)} samples of {', '.join(splits)}, none of them of {', '.join(targets)}",
            expected="knowledge about samples of the new domain",
            fix="write it for the data of all domains: lightning-distill knowledge --config RUN.yaml --out "
            "DIR, with a teacher and the CrossDomainDataModule in RUN.yaml",
        )
    ids, at = np.unique(table.sample_id[rows], return_inverse=True)
    target, label = np.zeros(len(ids), np.bool_), np.full(len(ids), UNLABELLED, np.int64)
    target[at[new]] = True
    # Training rows alone: labels of the other splits are there to measure with.
    seen = np.flatnonzero((table.split[rows] == SPLITS.index("train")) & table.labelled(rows))[::-1]
    label[at[seen]] = table.target[rows[seen]]
    return FusedSamples(ids, target, label)


def _check(source: DataSource, targets: Sequence[str], splits: Sequence[str]) -> None:
    odd = [name for name in targets if name not in source.domains]
    if odd or not targets:
        raise ConfigError(
            where="fuse, targets",
            found=f"{odd[0]!r}{nearest(odd[0], source.domains)}" if odd else "none",
            expected=f"one or several of the data's domains: {', '.join(source.domains)}",
            fix="name the domains that the student is to learn",
        )
    wrong = [split for split in splits if split not in SPLITS]
    if wrong or not splits:
        raise ConfigError(
            where="fuse, splits",
            found=f"{wrong[0]!r}{nearest(wrong[0], SPLITS)}" if wrong else "none",
            expected=f"one or several of {', '.join(SPLITS)}",
            fix="leave it out for train and val",
        )
    labels = source.samples.target
    if labels.ndim != 1 or labels.dtype.kind != "i":
        raise ConfigError(
            where="fuse, data",
            found=f"targets of type {labels.dtype} with {labels.ndim} dimensions",
            expected="one class a sample",
            fix="for several labels or numbers, distil from the knowledge of the teacher itself",
        )
