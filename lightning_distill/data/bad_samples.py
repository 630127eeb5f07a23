"""Samples that cannot be read: what stands in for them, and a record that is kept of each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from lightning_distill.errors import SampleError
from lightning_distill.structures import Batch

BUDGET: Final = 0.01
"""Share of an epoch's samples that may be bad before training stops after all."""
RECORD: Final = "bad_samples.jsonl"
"""Name of the file the records are added to."""


@dataclass(frozen=True)
class BadSample:
    """One sample that could not be read.

    Attributes:
        split: It was needed for.
        epoch: Counted from 0.
        batch: Number in the epoch, counted from 0.
        where: File, row and field.
        found: What was there.
        substitute: Where the sample comes from that stands in for it.
    """

    split: str
    epoch: int
    batch: int
    where: str
    found: str
    substitute: str


@dataclass(frozen=True)
class Substituted:
    """A batch some of whose samples stand in for bad ones."""

    batch: Batch
    records: tuple[BadSample, ...]


class BadSampleLog:
    """Writes the records down and stops when there are too many.

    Args:
        size: Samples an epoch has (of this process).
        path: File to add to, one JSON object a line; None only counts.
    """

    def __init__(self, size: int, path: Path | None) -> None:
        self.limit = max(1, int(BUDGET * size))
        self.size, self.path = size, path
        self._bad: defaultdict[int, set[str]] = defaultdict(set)

    def add(self, records: Sequence[BadSample]) -> None:
        """Take note.

        Raises:
            SampleError: If an epoch has more of them than `limit`.
        """
        if self.path is not None and records:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
        for record in records:
            bad = self._bad[record.epoch]
            bad.add(record.where)  # a sample that is read several times in an epoch counts once
            if len(bad) > self.limit:
                raise SampleError(
                    where=record.where,
                    found=f"{record.found}; it is bad sample {len(bad)} of this epoch",
                    expected=f"at most {self.limit} of {self.size} samples to be bad ({BUDGET:.0%})",
                    fix="repair the samples"
                    + (f" listed in {self.path}" if self.path else "")
                    + ", or leave their cells empty to mark them absent",
                )
