"""Terms that work against the task."""

from __future__ import annotations

from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import Mean, mean_over_time
from lightning_distill.explanation.findings.overlay import TASK, RunConfig, overlay

_PULLS = 0.05
"""Share of all pulls at the fused feature, below which a term does nothing worth a word."""
_DWARFS = 0.95


def harmful_term(facts: RunFacts) -> Finding | None:
    """Terms whose gradient at the fused feature goes against the task's, or is nearly all there is of it.

    Each is a mean over the training with its interval; both need that the teacher is not known to help.
    """
    config = RunConfig(facts.config)
    helps = facts.worth is not None and facts.worth.low > 0
    if not config.losses or (helps and len(config.losses) == 1):
        return None
    new: dict[str, float] = {}
    told: list[str] = []
    for name in config.losses:
        share = _mean(facts, f"gradient_share/{name}", len(config.losses))
        cosine = _mean(facts, f"gradient_cosine/{name}", len(config.losses))
        if share is None or share.value < _PULLS:
            continue
        weight = _weight_now(facts, config, name)
        if cosine is not None and cosine.high < 0:
            told.append(f"The gradient of {name!r} points away from the task's: their cosine is {cosine}.")
            factor = 0.5
        elif share.low > _DWARFS and not helps:
            told.append(f"Of all pulls at the fused feature, {name!r} has a share of {share}.")
            rest = facts.curves.get(f"gradient_share/{TASK}")
            factor = (sum(rest.values) / len(rest.values) if rest else 0.0) / share.value or 0.1
        else:
            continue
        if weight is not None:
            new[name] = float(f"{factor * weight:.2g}")
    if not told:
        return None
    change = (
        overlay(config.with_weights(new), "Smaller weights for what works against the task.") if new else ""
    )
    title = (
        "A term works against the task." if len(told) == 1 else f"{len(told)} terms work against the task."
    )
    return Finding("harmful-term", title, " ".join(told), change)


def _mean(facts: RunFacts, name: str, among: int) -> Mean | None:
    curve = facts.curves.get(name)
    return None if curve is None else mean_over_time(curve, among)


def _weight_now(facts: RunFacts, config: RunConfig, name: str) -> float | None:
    """As set, or where it changes, as it was at the end."""
    raw, weighted = (_last(facts.curves.get(f"train/{n}")) for n in (name, f"{name}_weighted"))
    given = config.weight(name)
    if given is not None:
        return given
    return weighted / raw if raw and weighted else None


def _last(curve: Curve | None) -> float | None:
    return curve.values[-1] if curve is not None else None
