"""What the doctor finds about domains without a model: sizes, labels, modalities, samples in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.commands.doctor.samples import SplitCount, count_rows, some
from lightning_distill.data.cross_domain import CrossDomainDataModule
from lightning_distill.data.source import SPLITS
from lightning_distill.errors import printable

_OFTEN: Final = 3.0
"""Passes an epoch from which a domain that comes again is told of."""
_EXPECTED: Final = 5.0
"""Samples a class must be expected to have before its absence means anything: by chance it has none in
1 of 150 cases then."""
UNEVEN: Final = 0.1
"""Half the summed difference of two lists of shares from which they are told of; a rule of thumb."""
BALANCE: Final = (
    "alignment of whole domains would pull rows of one class onto another (Zhao et al. 2019): prefer "
    "model.init_args.losses: {mcc: {class_path: MinimumClassConfusion}}, or PseudoLabels"
)


@dataclass(frozen=True)
class DomainCount:
    """One domain.

    Attributes:
        name: Its name.
        target: Whether it is one to adapt to.
        splits: Name of a split -> what it holds.
        modalities: Modality -> training samples that have it.
        passes: How often an epoch goes through its training samples.
    """

    name: str
    target: bool
    splits: dict[str, SplitCount]
    modalities: dict[str, int]
    passes: float

    @property
    def train(self) -> SplitCount:
        """The training split."""
        return self.splits["train"]


def count_domains(parts: Parts, findings: Findings) -> list[DomainCount]:
    """Count the domains, and find what the counts show; nothing where there is one domain only."""
    data = parts.data
    if not isinstance(data, CrossDomainDataModule):
        return []
    counts: list[DomainCount] = []
    with findings.step("domains"):
        counts = _counted(data)
        _check_sizes(counts, findings)
        _check_modalities(parts, counts, findings)
        _check_copies(data, findings)
        if data.indexed.samples.target.dtype.kind == "i":
            _check_labels(parts, counts, data.classes, findings)
    return counts


def shares_differ(source: Sequence[int], target: Sequence[int]) -> float | None:
    """Half the sum of |p - q| over the classes, where it is too much for chance and above 0.1; else None.

    Args:
        source: Labelled samples of each class.
        target: The same of another domain.
    """
    from scipy.stats import chi2_contingency

    table = np.array([source, target], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    if not table.sum(axis=1).all() or table.shape[1] < 2:
        return None
    p, q = table / table.sum(axis=1, keepdims=True)
    apart = float(np.abs(p - q).sum() / 2)
    by_chance = float(chi2_contingency(table)[1])
    return apart if apart > UNEVEN and by_chance < 0.01 else None


def labels_of(counts: Sequence[DomainCount], target: bool) -> NDArray[np.int64]:
    """Labelled training samples of each class, of all sources or all targets: "classes"."""
    return np.sum([c.train.per_class for c in counts if c.target == target], axis=0, dtype=np.int64)


def _counted(data: CrossDomainDataModule) -> list[DomainCount]:
    table, source = data.indexed.samples, data.indexed
    rows = {split: data.rows(split) for split in SPLITS}
    counts, batches = [], {}
    for index, name in enumerate(data.domains):
        own = {split: r[table.domain[r] == index] for split, r in rows.items()}
        train = own["train"]
        there = {m: int(table.present[m][train].sum()) for m in data.read_modalities}
        splits = {split: count_rows(data, source, split, r) for split, r in own.items()}
        counts.append(DomainCount(name, name in data.targets, splits, there, 0.0))
        batches[name] = -(-len(train) // data.parts[name].batch_size)
    most = max(batches.values())
    return [
        DomainCount(
            c.name, c.target, c.splits, c.modalities, most / batches[c.name] if batches[c.name] else 0
        )
        for c in counts
    ]


def _check_sizes(counts: Sequence[DomainCount], findings: Findings) -> None:
    longest = min(counts, key=lambda c: c.passes)
    for count in counts:
        if count.passes >= _OFTEN:
            findings.note(
                f"domains, {count.name}",
                f"{count.train.samples:,} training samples, which come about {count.passes:.0f} times while "
                f"{longest.name!r} comes once",
                f"an epoch is one pass over {longest.name!r}; a smaller batch_size for {count.name!r}, or a "
                f"larger one for {longest.name!r}, evens it out",
            )


def _check_modalities(parts: Parts, counts: Sequence[DomainCount], findings: Findings) -> None:
    """A modality that the sources, or a target, lack."""
    read = () if parts.module is None else parts.module.student.modalities
    for modality in counts[0].modalities:
        having = [c for c in counts if c.modalities[modality]]
        lacking = [c for c in counts if not c.modalities[modality] and c.train.samples]
        if any(not c.target for c in having):  # of several sources, one that has it is enough
            lacking = [c for c in lacking if c.target]
        if not having or not lacking:
            continue
        names = [some([c.name for c in which]) for which in (having, lacking)]
        found = f"training samples in {names[0]}, none in {names[1]}"
        if any(c.target for c in lacking) and modality in read:
            findings.warn(
                f"domains, {modality}",
                found,
                "what the student reads, in the target too",
                f"drop model.student.encoders.{modality}, or keep it for the teacher alone "
                f"(data.*.teacher_processors.{modality})",
            )
        else:
            fix = f"a term on features.{modality} has nothing to compare"
            taught = ", and its encoder no label to learn from" if modality in read else ""
            findings.note(f"domains, {modality}", found, fix + taught)


def _check_copies(data: CrossDomainDataModule, findings: Findings) -> None:
    """The same sample on both sides."""
    table, ids = data.indexed.samples, data.indexed.samples.sample_id
    target = np.isin(table.domain, [data.domains.index(name) for name in data.targets])
    train = data.rows("train")
    trained = np.unique(ids[train[~target[train]]])
    for split in SPLITS:
        rows = data.rows(split)
        rows = rows[target[rows]]
        shared = rows[np.isin(ids[rows], trained)]
        if not len(shared):
            continue
        where = f"domains, split {split!r} of the target"
        found = f"{len(shared):,} of {len(rows):,} samples are training samples of a source too, such as "
        found += printable(data.indexed.describe(int(shared[0])))
        if split == "train":
            findings.note(where, found, "the two domains overlap; distances between them come out smaller")
        else:
            findings.warn(where, found, "no sample on both sides", "leave them out of the source's table")


def _check_labels(
    parts: Parts, counts: Sequence[DomainCount], classes: Sequence[str], findings: Findings
) -> None:
    source, target = labels_of(counts, False), labels_of(counts, True)
    if not source.sum():
        fix = "check the label column of the sources, or exchange source and target"
        findings.warn("domains, labels", "no labelled training sample in the sources", "some", fix)
        return
    lacking = [classes[at] for at in np.flatnonzero((source == 0) & (target == 0)).tolist()]
    if lacking:
        taught = parts.module is not None and parts.module.teacher is not None
        fix = "the teacher alone can tell them: losses: {kd: {class_path: OnTarget, init_args: {loss: ...}}}"
        findings.note(
            "domains, labels",
            f"{len(lacking)} of {len(classes)} classes have no labelled training sample: {some(lacking)}",
            (fix if taught else "nothing can teach them: add labels, or a teacher that knows them")
            + "; an alignment term would pull their rows onto other classes",
        )
    expected = target.sum() * source / source.sum()
    rare = [classes[at] for at in np.flatnonzero((target == 0) & (expected >= _EXPECTED)).tolist()]
    if rare:
        findings.note(
            "domains, labels",
            f"{int(target.sum()):,} labelled training samples of the target, none of {some(rare)}, which the "
            "sources have",
            "if the target lacks these classes, an alignment term pulls its rows onto them: leave them out "
            "of the sources",
        )
    apart = shares_differ(source.tolist(), target.tolist())
    if apart is not None:
        findings.note(
            "domains, class balance",
            f"{apart:.0%} of the labelled training samples of the target would have to change class to have "
            "the shares of the sources; it means nothing if labels were chosen class by class",
            BALANCE,
        )
