"""How far apart domains are in each modality, as the doctor measures it, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lightning_distill.commands.doctor.domain_features import DomainFeatures, read_features
from lightning_distill.commands.doctor.domains import BALANCE, UNEVEN, DomainCount, labels_of, shares_differ
from lightning_distill.commands.doctor.findings import Findings
from lightning_distill.commands.doctor.parts import Parts
from lightning_distill.data.cross_domain import CrossDomainDataModule
from lightning_distill.domain_distance import MMDTest, ProxyADistance, mmd_test, proxy_a_distance
from lightning_distill.losses.alignment_base import AlignmentLoss
from lightning_distill.module import DistillationModule

ALIKE: Final = 0.4
FAR: Final = 1.6
"""A-distances below and above which domains are called alike and far apart: rules of thumb."""
_VAGUE: Final = 0.2
"""Standard error from which no more is said than that nothing can be."""
_FEWEST: Final = 20
"""Rows of each domain."""
_TESTED: Final = 200
"""Rows of each domain that go into a test, whose time grows with their square."""


@dataclass(frozen=True)
class Distance:
    """One modality between one source and one target.

    Attributes:
        source: Name of the domain.
        target: Name of the domain.
        modality: Its name.
        a_distance: What a linear classifier tells.
        mmd: Whether the distributions differ.
    """

    source: str
    target: str
    modality: str
    a_distance: ProxyADistance
    mmd: MMDTest

    @property
    def verdict(self) -> str:
        """One of "alike", "far apart", "different" and "unclear", a standard error away from the bounds."""
        low, high = (self.a_distance.distance + sign * self.a_distance.standard_error for sign in (-1, 1))
        if high < ALIKE:
            return "alike"
        if low > FAR:
            return "far apart"
        return "unclear" if self.a_distance.standard_error > _VAGUE else "different"


@dataclass
class Distances:
    """Everything that was measured.

    Attributes:
        all: Source by source, target by target, modality by modality.
        compared: modality -> what its features are.
        cut_short: Whether reading took too long, so that there are fewer rows than asked for.
    """

    all: list[Distance] = field(default_factory=list)
    compared: dict[str, str] = field(default_factory=dict)
    cut_short: bool = False


def measure_domains(parts: Parts, counts: Sequence[DomainCount], findings: Findings) -> Distances | None:
    """Compare every source with every target, and say what it suggests.

    Args:
        parts: Data and models.
        counts: The domains; none where there is one only.
        findings: Where the suggestions go.
    """
    data, module = parts.data, parts.module
    if not counts or module is None or not isinstance(data, CrossDomainDataModule):
        return None
    with findings.step("domains, distances"):
        features = read_features(parts, module, data)
        uneven = _check_shares(counts, features, findings)
        found = Distances(compared=features.compared, cut_short=features.cut_short)
        for source in (c.name for c in counts if not c.target):
            for target in (c.name for c in counts if c.target):
                pair = _measured(features, source, target, data.seed, findings)
                found.all += pair
                if pair:
                    _suggest(module, pair, uneven, findings)
        return found
    return None


def _measured(
    features: DomainFeatures, source: str, target: str, seed: int, findings: Findings
) -> list[Distance]:
    found = []
    for modality, rows in features.rows.items():
        x, y = rows[source], rows[target]
        where = f"domains, {source} and {target}, {modality}"
        if not len(x) or not len(y):
            continue  # the domain has none, and that was told
        if min(len(x), len(y)) < _FEWEST:
            told = f"{len(x)} and {len(y)} different rows, too few to compare"
            findings.note(where, told, f"distances need {_FEWEST} of each that differ")
        elif not (x.isfinite().all() and y.isfinite().all()):
            findings.note(
                where, f"{features.compared[modality]}, not finite", "look at the model and its inputs"
            )
        else:
            measured = proxy_a_distance(x, y, seed), mmd_test(x[:_TESTED], y[:_TESTED], seed)
            found.append(Distance(source, target, modality, *measured))
    return found


def _check_shares(counts: Sequence[DomainCount], features: DomainFeatures, findings: Findings) -> bool:
    """Whether shares of classes differ: by the target's labels, or else as a teacher estimates them."""
    train, shares = [c.train for c in counts], features.teacher_shares
    if not all(count.per_class for count in train if count.samples):
        return False
    source, target = labels_of(counts, False), labels_of(counts, True)
    if target.sum():
        return shares_differ(source.tolist(), target.tolist()) is not None
    if not source.sum() or len(shares) < len(counts) or len(source) != len(next(iter(shares.values()))):
        return False
    true = source / source.sum()
    # What the teacher gets wrong where labels are known is no evidence.
    by = {side: _mean_share(counts, features, side) for side in (False, True)}
    off, apart = (float(np.abs(by[side] - true).sum() / 2) for side in (False, True))
    if apart <= off + UNEVEN:
        return False
    findings.note(
        "domains, class balance",
        f"an estimate, since the target has no labels: by the teacher's mean answer, {apart:.0%} of its rows "
        f"would have to change class to have the shares of the sources' labels; of the sources' own rows, by "
        f"the teacher's answer, {off:.0%}. A teacher that is wrong in the target is wrong about this too",
        f"if it is right, these are {BALANCE}",
    )
    return True


def _mean_share(counts: Sequence[DomainCount], features: DomainFeatures, target: bool) -> np.ndarray:
    """Of the domains of one side, each by its labelled samples, or by all where it is a target."""
    own = [c for c in counts if c.target == target]
    weight = np.array([c.train.samples if target else c.train.labelled for c in own], np.float64)
    return np.average([features.teacher_shares[c.name] for c in own], axis=0, weights=weight)


def _suggest(module: DistillationModule, pair: Sequence[Distance], uneven: bool, findings: Findings) -> None:
    """One note for a source and a target."""
    by = {
        verdict: [d.modality for d in pair if d.verdict == verdict]
        for verdict in ("alike", "different", "far apart", "unclear")
    }
    by_name = {d.modality: d.a_distance.distance for d in pair}
    told = [
        f"{verdict} in {', '.join(f'{m} ({by_name[m]:.2f})' for m in names)}"
        for verdict, names in by.items()
        if names
    ]
    hidden = [d.modality for d in pair if d.verdict == "alike" and d.mmd.p_value <= 0.01]
    if hidden:
        told.append(
            f"a difference in {', '.join(hidden)} by the MMD, of which a linear classifier finds little"
        )
    advice, apart = [], [*by["different"], *by["far apart"]]
    if by["alike"] and not apart:
        advice.append(
            f"in {_and(by['alike'])} an alignment term has little to align: distil, or train plainly"
        )
    if (least := _much_closer(pair)) is not None:
        advice.append(_teacher_that_reads(module, least))
    elif by["far apart"] and not by["different"] and not by["unclear"]:
        advice.append(
            "alignment may match wrong classes: a teacher that knows the target, or a few labels, are safer"
        )
    advice += _alignment(module, apart, uneven)
    if by["unclear"]:
        advice.append(f"in {_and(by['unclear'])} there are too few rows to say more")
    findings.note(f"domains, {pair[0].source} and {pair[0].target}", "; ".join(told), "; ".join(advice))


def _much_closer(pair: Sequence[Distance]) -> str | None:
    """The modality with the least distance, where another is far apart and at more than twice of it."""
    least, most = (f(pair, key=lambda d: d.a_distance.distance) for f in (min, max))
    far = most.verdict == "far apart" and most.a_distance.distance > 2 * least.a_distance.distance
    return least.modality if far and least.verdict != "unclear" else None


def _teacher_that_reads(module: DistillationModule, modality: str) -> str:
    told = f"the domains differ least in {modality}, so what a teacher knows of it may carry over best"
    if module.teacher is not None and modality in module.teacher.requirements:
        return f"{told}; the teacher reads it: distil on the target rows (OnTarget)"
    fix = (
        f"take one that reads it, with data.*.teacher_processors.{modality} if the student is not to read it"
    )
    return f"{told}: {fix}"


def _alignment(module: DistillationModule, apart: Sequence[str], uneven: bool) -> list[str]:
    """What to do about modalities the student reads, unless it is done."""
    aligned = [t for t in module.terms.losses.values() if isinstance(t, AlignmentLoss)]
    read = [m for m in apart if m in module.student.modalities]
    if not read or aligned:
        return []
    if uneven:
        return ["rather no term that aligns whole domains, since shares of classes differ: see class balance"]
    term = f"{{class_path: MaximumMeanDiscrepancy, init_args: {{layer: features.{read[0]}}}}}"
    return [f"an alignment term can be tried: model.init_args.losses: {{align: {term}}}"]


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
