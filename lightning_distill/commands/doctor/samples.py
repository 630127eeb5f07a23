"""How many samples there are, of which classes and modalities, and whether training can use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.data import MultimodalDataModule
from lightning_distill.data.source import SPLITS, DataSource
from lightning_distill.errors import ManifestError, SampleError
from lightning_distill.structures import UNLABELLED

_NAMED: Final = 8
_UNEVEN: Final = 50
_READERS: Final = {
    "student": "move the processors of what only the teacher reads from data.processors to "
    "data.teacher_processors; then such samples are left out",
    "teacher": "leave those samples out, or give the teacher an encoder for what they have",
}


@dataclass(frozen=True)
class SplitCount:
    """One split.

    Attributes:
        split: Its name.
        samples: Used rows.
        labelled: Those with a label.
        combinations: Modalities -> samples that have just these.
        per_class: Samples of each class; empty where targets are numbers.
    """

    split: str
    samples: int
    labelled: int
    combinations: dict[tuple[str, ...], int]
    per_class: tuple[int, ...]


def count_samples(parts: Parts, findings: Findings) -> list[SplitCount]:
    """Count, and find what the counts show to be wrong."""
    data = parts.data
    if data is None:
        return []
    if not isinstance(data.source, DataSource):
        findings.note("data", "a stream, whose samples are neither counted nor decoded beforehand")
        return []
    counts = []
    for split in SPLITS:
        with findings.step(f"data, split {split!r}"):
            rows = data.rows(split)
            counts.append(count_rows(data, data.source, split, rows))
            if not len(rows):
                _empty(data.source, split, findings)
            _check_readers(parts, data.source, split, rows, findings)
    with findings.step("data, labels"):
        _check_classes(parts, counts, data.source, findings)
    return counts


def count_rows(
    data: MultimodalDataModule, source: DataSource, split: str, rows: NDArray[np.int64]
) -> SplitCount:
    """What some rows are.

    Args:
        data: What reads them.
        source: They are of.
        split: Its name.
        rows: Row numbers in the source.
    """
    table = source.samples
    target = table.target[rows]
    per_class: tuple[int, ...] = ()
    if target.ndim == 2 and target.dtype == np.int8:
        per_class = tuple((target == 1).sum(axis=0).tolist())
    elif target.ndim == 1:
        known = target[target != UNLABELLED]
        per_class = tuple(np.bincount(known, minlength=len(source.classes)).tolist())
    labelled = int(table.labelled(rows).sum()) if len(rows) else 0
    combinations = table.combinations(rows, data.read_modalities) if len(rows) else {}
    return SplitCount(split, len(rows), labelled, combinations, per_class)


def _empty(source: DataSource, split: str, findings: Findings) -> None:
    fix = f"give some rows the split {split!r}, or split by chance"
    found = f"0 usable rows of {len(source.samples)}"
    if split == "test":
        findings.warn("data, split 'test'", found, "some rows: `test` and `predict` use them", fix)
    else:
        findings.error(
            ManifestError(where=f"data, split {split!r}", found=found, expected="at least one", fix=fix)
        )


def _check_readers(
    parts: Parts, source: DataSource, split: str, rows: NDArray[np.int64], findings: Findings
) -> None:
    """Each sample must have something to read for the student, and for the teacher."""
    if parts.module is None:
        return
    teacher = parts.module.teacher
    readers: dict[str, Sequence[str]] = {"student": parts.module.student.modalities}
    if teacher is not None and split != "test":
        readers["teacher"] = tuple(teacher.requirements)
    present = source.samples.present
    for who, modalities in readers.items():
        there = [present[m][rows] for m in modalities if m in present]
        if not there or not len(rows):
            continue
        blind = ~np.logical_or.reduce(there)
        if blind.any():
            findings.error(
                SampleError(
                    where=f"{source.describe(int(rows[blind.argmax()]))}, split {split!r}",
                    found=f"none of the modalities the {who} reads ({', '.join(modalities)}); so it is in "
                    f"{int(blind.sum())} of {len(rows)} samples",
                    expected="at least one in each sample",
                    fix=_READERS[who],
                )
            )


def _check_classes(
    parts: Parts, counts: Sequence[SplitCount], source: DataSource, findings: Findings
) -> None:
    train, classes = next((count for count in counts if count.split == "train"), None), source.classes
    if train is None or not train.samples:
        return
    if not train.labelled:
        _no_labels(parts, train, findings)
        return
    filled = [count for count in train.per_class if count]
    if source.samples.target.ndim == 1 and len(filled) == 1:
        name = classes[train.per_class.index(filled[0])]
        findings.error(
            ManifestError(
                where="data, split 'train'",
                found=f"{train.labelled} labelled samples, all of the class {name!r}",
                expected="samples of two classes or more",
                fix="check the label column and how the rows are split",
            )
        )
        return
    _check_absent(counts, classes, findings)
    if filled and max(filled) > _UNEVEN * min(filled):
        findings.note(
            "data, split 'train'",
            f"the largest class has {max(filled)} samples, the smallest {min(filled)}",
            "sampling: {class_path: ClassBalanced} draws them equally often; watch macro F1",
        )


def _check_absent(counts: Sequence[SplitCount], classes: Sequence[str], findings: Findings) -> None:
    """Classes that a split lacks: nothing to learn from in training, nothing to measure in the others."""
    for count in counts:
        absent = [at for at, number in enumerate(count.per_class) if not number]
        if not absent or not count.labelled:
            continue
        named = some([classes[at] for at in absent])
        found = f"no sample of {len(absent)} of {len(classes)} classes: {named}"
        if count.split == "train":
            there = sum(other.per_class[at] for other in counts for at in absent)
            findings.warn(
                f"data, split {count.split!r}",
                f"{found}; the other splits have {there}",
                "some of each class to learn from",
                "split otherwise (StratifiedSplit keeps the shares of the classes), or remove the class",
            )
        else:
            fix = "metrics say nothing of these classes; StratifiedSplit keeps the shares of the classes"
            findings.note(f"data, split {count.split!r}", found, fix)


def _no_labels(parts: Parts, train: SplitCount, findings: Findings) -> None:
    found = f"{train.samples} samples, none with a label"
    if parts.module is not None and parts.module.teacher is not None:
        findings.warn(
            "data, split 'train'", found, "some labels beside the teacher's", "check the label column"
        )
    else:
        fix = "check the label column, or add a teacher"
        findings.error(
            ManifestError(where="data, split 'train'", found=found, expected="labels to train on", fix=fix)
        )


def some(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
