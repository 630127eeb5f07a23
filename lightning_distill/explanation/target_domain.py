"""Data of several domains: what a report measures is of the target domain, where it can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_distill.data import CrossDomainDataModule, DataSource, MultimodalDataModule
from lightning_distill.data.dataset import MultimodalDataset
from lightning_distill.data.reading import Reading

if TYPE_CHECKING:
    from lightning_distill.explanation.findings.overlay import RunConfig


class TargetRows(MultimodalDataModule):
    """The data of several domains, of which only the rows of the target domains are there.

    Row numbers are those of the whole.

    Args:
        whole: All domains.
    """

    def __init__(self, whole: CrossDomainDataModule) -> None:
        self.whole = whole
        super().__init__(
            whole.source,
            whole.processors,
            whole.batch_size,
            whole.num_workers,
            on_bad_sample=whole.on_bad_sample,
            teacher_processors=whole.teacher_processors,
            views=whole.views,
        )

    def rows(self, split: str) -> NDArray[np.int64]:
        """Those of the target domains that a split uses."""
        joined, rows = self.whole.joined, self.whole.rows(split)
        return rows[joined.in_target[joined.samples.domain[rows]]]

    def make_dataset(self, rows: NDArray[np.int64], reading: Reading) -> MultimodalDataset:
        """Batches that tell which rows are of a target domain."""
        return self.whole.make_dataset(rows, reading)


def narrowed(data: MultimodalDataModule, split: str) -> tuple[MultimodalDataModule, tuple[str, ...], str]:
    """What to measure on.

    Args:
        data: Of the run; no stream.
        split: "val" or "test".

    Returns:
        The data; the domains they are of, empty for all; a sentence where several are counted together.
    """
    if isinstance(data, CrossDomainDataModule):
        target = TargetRows(data)
        if data.indexed.samples.labelled(target.rows(split)).any():
            return target, data.targets, ""
        why = f"no sample of the target domain has a label in the split {split}"
        return data, (), f"All figures are of {_counts(data.indexed, data.rows(split))}: {why}."
    rows = data.rows(split)
    if len(np.unique(data.indexed.samples.domain[rows])) < 2:
        return data, (), ""
    return data, (), f"All domains are counted together: {_counts(data.indexed, rows)}."


def _counts(source: DataSource, rows: NDArray[np.int64]) -> str:
    rows = rows[source.samples.labelled(rows)]
    counts = np.bincount(source.samples.domain[rows], minlength=len(source.domains)).tolist()
    named = zip(source.domains, counts, strict=True)
    return ", ".join(f"{count:,} labelled samples of {name!r}" for name, count in named if count)


def only_on_target(config: RunConfig) -> bool:
    """Whether every term that compares with the teacher sees rows of the target domain alone.

    Args:
        config: Of the run.
    """
    terms = list(config.taught.values())
    return bool(terms) and all(_on_target(term) for term in terms)


def _on_target(term: Any) -> bool:
    """Whether one of those that choose rows for another term chooses the target domain."""
    while isinstance(term, dict):
        name = str(term.get("class_path")).rpartition(".")[2]
        if name == "OnTarget":
            return True
        if name != "Excluding":
            return False
        term = (term.get("init_args") or {}).get("loss")
    return False
