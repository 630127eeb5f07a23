"""The ways of training that `cross_domain.py` compares, each a set of terms with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from lightning_distill.losses import (
    CORAL,
    ConditionalAdversarial,
    Consistency,
    DistillationLoss,
    DomainAdversarial,
    EntropyMinimisation,
    InformationMaximisation,
    LogitKD,
    MaximumMeanDiscrepancy,
    MinimumClassConfusion,
    OnTarget,
    PseudoLabels,
)
from lightning_distill.schedules import CosineRamp, Schedule, SigmoidRamp

STEPS = 400
HIDDEN = (128, 128)
"""Widths of a discriminator."""


class Kind(Enum):
    """Column of the table."""

    SOURCE = "source_only"
    ALIGNMENT = "alignment"
    DISTILLATION = "distillation"
    BOTH = "both"
    CEILING = "ceiling"
    CEILING_BOTH = "ceiling_both"
    NO_TEXT = "distillation_no_text"


class Taught(Enum):
    """Who teaches."""

    NOBODY = "nobody"
    KNOWLEDGE = "what the pretrained teacher said"
    FUSED = "that, fused with the target's data"
    NO_TEXT = "what the teacher said without the text"
    SELF = "the student's running mean"


@dataclass(frozen=True)
class Method:
    """A way of training.

    Attributes:
        kind: Column it competes in.
        terms: Makes the terms.
        weights: Of the terms; "task" is 1 where not given.
        taught: By whom.
    """

    kind: Kind
    terms: Callable[[], dict[str, DistillationLoss]] = dict
    weights: dict[str, float | Schedule] = field(default_factory=dict)
    taught: Taught = Taught.NOBODY


def _reversal() -> SigmoidRamp:
    return SigmoidRamp(steps=STEPS)


ALIGNMENTS: dict[str, tuple[Callable[[], DistillationLoss], tuple[float, ...]]] = {
    "MMD": (MaximumMeanDiscrepancy, (1.0, 3.0)),
    "CORAL": (CORAL, (10.0, 100.0)),
    "DANN": (lambda: DomainAdversarial(hidden=HIDDEN, factor=_reversal()), (0.3, 1.0)),
    "CDAN": (lambda: ConditionalAdversarial(hidden=HIDDEN, factor=_reversal()), (1.0,)),
    "MCC": (MinimumClassConfusion, (0.3, 1.0)),
    "entropy": (EntropyMinimisation, (0.1,)),
    "information": (InformationMaximisation, (0.3,)),
}
"""Name -> term, and the weights that are tried."""
BESIDE = {"MMD": 1.0, "DANN": 0.3, "MCC": 1.0, "information": 0.3}
"""Weight of an alignment term beside distillation."""


def _kd(temperature: float) -> dict[str, DistillationLoss]:
    return {"kd": OnTarget(LogitKD(temperature))}


def _distillations() -> dict[str, Method]:
    kind, found = Kind.DISTILLATION, dict[str, Method]()
    for told, taught in (("teacher", Taught.KNOWLEDGE), ("fused", Taught.FUSED)):
        for temperature in (1.0, 4.0):
            terms, weights = (lambda t=temperature: _kd(t)), {"kd": 1.0}
            found[f"KD {told}, T={temperature:.0f}"] = Method(kind, terms, weights, taught)
        found[f"pseudo-labels of {told}"] = Method(
            kind, lambda: {"pseudo": PseudoLabels(threshold=0.8)}, {"pseudo": 1.0}, taught
        )
    mean = lambda: {"consistency": OnTarget(Consistency(threshold=0.8))}  # noqa: E731
    ramp = {"consistency": CosineRamp(0.0, 3.0, 0, STEPS // 2)}
    found["mean teacher"] = Method(kind, mean, ramp, Taught.SELF)
    return found


def _with_kd(term: Callable[[], DistillationLoss], temperature: float) -> dict[str, DistillationLoss]:
    return {**_kd(temperature), "align": term()}


def methods() -> dict[str, Method]:
    """Name -> method, all that are compared."""
    found = {"source only": Method(Kind.SOURCE)}
    for name, (term, weights) in ALIGNMENTS.items():
        for weight in weights:
            terms = lambda term=term: {"align": term()}  # noqa: E731
            found[f"{name} {weight:g}"] = Method(Kind.ALIGNMENT, terms, {"align": weight})
    found |= _distillations()
    for name, weight in BESIDE.items():
        terms = lambda term=ALIGNMENTS[name][0]: _with_kd(term, 4.0)  # noqa: E731
        for told, taught in (("teacher", Taught.KNOWLEDGE), ("fused", Taught.FUSED)):
            beside = {"kd": 1.0, "align": weight}
            found[f"KD {told} + {name} {weight:g}"] = Method(Kind.BOTH, terms, beside, taught)
    found["KD without text, T=4"] = Method(Kind.NO_TEXT, lambda: _kd(4.0), {"kd": 1.0}, Taught.NO_TEXT)
    found["target labels"] = Method(Kind.CEILING)
    found["labels of both"] = Method(Kind.CEILING_BOTH)
    return found
