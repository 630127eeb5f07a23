"""What `clip_study.py` compares: every rule, feature clip and balancer, with the few ranges tried of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clip_study_data import MODALITIES
from clip_study_models import LayerNormClip, Parts, unimodal_terms
from torch import Tensor

from lightning_distill import clipping, feature_clipping, gradient_balancing, units
from lightning_distill.gradient_balancing import GradientBalancer, StudentView

DECADES: Final = (1e-3, 1e-2, 1e-1, 1.0)
SMALL: Final = (1e-5, 1e-4, 1e-3, 1e-2)
IN_UNITS: Final = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Row:
    """One thing that is compared.

    Attributes:
        name: In the tables.
        make: Range -> what it puts into a training.
        values: Ranges that are tried; (0.0,) where there is none.
        needs: Public names of the library; a row without one of them is left out, and said.
        what: The range is, in words.
    """

    name: str
    make: Callable[[float], Parts]
    values: tuple[float, ...] = (0.0,)
    needs: tuple[str, ...] = ()
    what: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Names it needs that the library does not have."""
        shelves = (clipping, feature_clipping, gradient_balancing, units)
        return tuple(name for name in self.needs if not any(hasattr(shelf, name) for shelf in shelves))


def _rule(name: str, cls: str, values: tuple[float, ...], what: str) -> Row:
    """A rule whose first argument is the range."""
    return Row(name, lambda v: Parts(rule=getattr(clipping, cls)(v)), values, (cls,), what)


def _in_units(name: str, unit: str) -> Row:
    def make(value: float) -> Parts:
        return Parts(rule=clipping.ValueClip(value, getattr(units, unit)()))

    return Row(name, make, IN_UNITS, ("ValueClip", unit), "epsilon")


def _per_modality(value: float) -> Parts:
    shelf: Any = clipping
    rules = {m: shelf.NormClip(value) for m in MODALITIES}
    return Parts(rule=shelf.PerModality(rules, rest=shelf.NormClip(value)))


def _boundary(value: float) -> Parts:
    return Parts(modality_clip=lambda: feature_clipping.BoundaryClip(value))  # type: ignore[attr-defined]


def _boundary_in_units(value: float) -> Parts:
    def make() -> feature_clipping.FeatureClip:
        shelf: Any = feature_clipping
        return shelf.BoundaryClip(value, units.StandardDeviation())  # type: ignore[attr-defined, no-any-return]

    return Parts(modality_clip=make)


def _both(rule: str, feature: str) -> Callable[[float], Parts]:
    """A rule, and a feature clip with the bound that the feature clips chose."""

    def make(value: float) -> Parts:
        return Parts(
            rule=getattr(clipping, rule)(value), feature_clip=getattr(feature_clipping, feature)(TIGHT)
        )

    return make


BOUNDS: Final = (0.1, 0.5, 2.0, 8.0)


def _only(name: str, feature: str) -> Row:
    """No rule, a feature clip."""
    clip = getattr(feature_clipping, feature)
    return Row(name, lambda v: Parts(feature_clip=clip(v)), BOUNDS, what="epsilon")


NONE: Final = Row("none", lambda _: Parts())
TIGHT: Final = 0.1
SHARES: Final = (0.01, 0.1, 0.4, 0.8)

RULES: Final = (
    NONE,
    _rule("norm", "NormClip", DECADES, "max_norm"),
    _rule("value", "ValueClip", SMALL, "epsilon"),
    _in_units("value, in deviations", "StandardDeviation"),
    _in_units("value, in quantiles", "Quantile"),
    _rule("target fraction", "TargetFractionClip", SHARES, "share"),
    _rule("tensor norm", "TensorNormClip", DECADES, "max_norm"),
    _rule("block RMS", "BlockRMSClip", SMALL, "threshold"),
    _rule("adaptive (AGC)", "AdaptiveClip", (1e-3, 3e-3, 1e-2, 1e-1), "factor"),
    _rule("AutoClip", "AutoClip", (10.0, 25.0, 50.0, 90.0), "percentile"),
    Row(
        "ZClip",
        lambda v: Parts(rule=clipping.ZClip(threshold=v)),  # type: ignore[attr-defined]
        (1.5, 2.5, 4.0, 6.0),
        ("ZClip",),
        "threshold",
    ),
    Row(
        "ZClip and norm",
        lambda v: Parts(rule=clipping.ZClip(max_norm=v)),
        DECADES,
        ("ZClip",),
        "max_norm",
    ),
    _rule("AdaGC", "AdaGC", DECADES, "max_norm"),
    _rule("spike (SPAM)", "SpikeClip", (10.0, 100.0, 1000.0, 5000.0), "theta"),
    Row("norm per modality", _per_modality, DECADES, ("NormClip", "PerModality"), "max_norm"),
    Row("boundary", _boundary, DECADES, ("BoundaryClip",), "epsilon"),
    Row(
        "boundary, in deviations",
        _boundary_in_units,
        IN_UNITS,
        ("BoundaryClip", "StandardDeviation"),
        "epsilon",
    ),
    _only("hard", "HardClip"),
    _only("towards", "TowardsClip"),
    Row("value and hard", _both("ValueClip", "HardClip"), SMALL, what="epsilon"),
    Row("value and towards", _both("ValueClip", "TowardsClip"), SMALL, what="epsilon"),
    Row("target fraction and towards", _both("TargetFractionClip", "TowardsClip"), SHARES, what="share"),
)


def _feature(name: str, cls: str, values: tuple[float, ...], what: str = "epsilon") -> Row:
    return Row(name, lambda v: Parts(feature_clip=getattr(feature_clipping, cls)(v)), values, (cls,), what)


def _hard_in_units(value: float) -> Parts:
    shelf: Any = feature_clipping
    return Parts(feature_clip=shelf.HardClip(value, units.StandardDeviation()))  # type: ignore[attr-defined]


RADII: Final = (1.0, 4.0, 16.0, 64.0)

FEATURES: Final = (
    NONE,
    Row("LayerNorm", lambda _: Parts(feature_clip=LayerNormClip())),
    _feature("hard", "HardClip", BOUNDS),
    Row(
        "hard, in deviations",
        _hard_in_units,
        (0.25, 0.5, 1.0, 2.0),
        ("HardClip", "StandardDeviation"),
        "epsilon",
    ),
    _feature("straight-through", "StraightThroughClip", BOUNDS),
    _feature("towards", "TowardsClip", BOUNDS),
    _feature("tanh", "TanhClip", BOUNDS),
    _feature("norm ball", "NormBallClip", RADII, "radius"),
    Row(
        "norm ball per modality",
        lambda v: Parts(modality_clip=lambda: feature_clipping.NormBallClip(v)),  # type: ignore[attr-defined]
        RADII,
        ("NormBallClip",),
        "radius",
    ),
    Row("boundary", _boundary, DECADES, ("BoundaryClip",), "epsilon"),
)


class UnimodalLosses(GradientBalancer):
    """The loss of each modality alone beside the joint one, added up: what the balancers start from."""

    def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
        """The joint term and one a modality."""
        return {**weighted, **unimodal_terms(view)}


def _conflicts(_: float) -> Parts:
    """PCGrad between the joint loss and those of the modalities alone; with one term it has nothing to do."""

    class UnimodalPCGrad(gradient_balancing.PCGrad):
        def terms(self, weighted: Mapping[str, Tensor], view: StudentView) -> dict[str, Tensor]:
            return super().terms({**weighted, **unimodal_terms(view)}, view)

    return Parts(balancer=UnimodalPCGrad())


def _balancer(name: str, cls: str, values: tuple[float, ...] = (0.0,), what: str = "") -> Row:
    def make(value: float) -> Parts:
        found = getattr(gradient_balancing, cls)
        return Parts(balancer=found(value) if what else found())

    return Row(name, make, values, (cls,), what)


BALANCERS: Final = (
    Row("unimodal losses", lambda _: Parts(balancer=UnimodalLosses())),
    _balancer("OGM-GE", "OGMGE", (0.1, 0.3, 0.6, 1.0), "alpha"),
    _balancer("AGM", "AGM", (0.1, 0.3, 1.0, 3.0), "alpha"),
    _balancer("PMR", "PMR", (0.1, 0.3, 1.0, 3.0), "alpha"),
    _balancer("MMPareto", "MMPareto", (1.0, 1.5, 2.0, 3.0), "gamma"),
    Row("PCGrad", _conflicts, needs=("PCGrad",)),
    _balancer("G-Blending", "GBlending"),
)

BY_PART: Final = {"rules": RULES, "features": FEATURES, "joint": BALANCERS}


def row(part: str, name: str) -> Row:
    """The row of a name."""
    return next(row for row in (*BY_PART[part], NONE) if row.name == name)
