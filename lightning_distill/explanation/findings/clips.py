"""Clip rules that clip everything, or nothing."""

from __future__ import annotations

import copy
from typing import Any, Final

from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import LEVEL, Mean, mean_over_time
from lightning_distill.explanation.findings.overlay import Lines, RunConfig, name_of, overlay

_RANGES: Final = {
    "ValueClip": "epsilon",
    "NormClip": "max_norm",
    "TensorNormClip": "max_norm",
    "AdaptiveClip": "factor",
    "BlockRMSClip": "threshold",
}
"""Rules with a fixed range -> its name. Others follow what they have seen, and bind as they are told."""
_FACTOR: Final = 10.0
_TIGHT: Final = 0.9
_MEASURED: Final = "A guess in powers of ten; `lightning-distill find-clip --config CONFIG` measures one."


def clip_too_tight(facts: RunFacts) -> Finding | None:
    """Over the training, nearly all entries that are not 0 are clipped in some group of weights."""
    rule = RunConfig(facts.config).module.get("clip_rule")
    told: dict[str, Mean] = {}
    groups = _groups(facts)
    for group, curve in groups.items():
        mean = mean_over_time(_of_alive(curve, facts.curves.get(f"clip/zero_share/{group}")), len(groups))
        if mean is not None and mean.low > _TIGHT:
            told[group] = mean
    changed = _scaled(rule, _FACTOR, set(told))
    if not told or changed == rule:
        return None
    shown = "; ".join(f"{group}: {100 * m.value:.1f} %" for group, m in told.items())
    evidence = (
        f"Share of the gradient's entries other than 0 that the rule changes, over the training: {shown}. "
        "With a value clip that is sign descent; with a norm clip every step has one length."
    )
    return Finding(
        "clip-too-tight",
        "The clip rule binds nearly always.",
        evidence,
        overlay({"clip_rule": changed}, _MEASURED),
    )


def clip_idle(facts: RunFacts) -> Finding | None:
    """In no step that was looked at has the rule changed anything, and these are many enough to tell."""
    rule = RunConfig(facts.config).module.get("clip_rule")
    groups = _groups(facts)
    if not groups or any(any(curve.values) for curve in groups.values()):
        return None
    looks = min(len(curve.values) for curve in groups.values())
    bound = 1 - LEVEL ** (1 / looks)
    changed = _scaled(rule, 1 / _FACTOR, set(groups))
    if bound > 0.1 or changed == rule:
        return None
    evidence = (
        f"In {looks} steps that were looked at, no entry of a gradient was changed; so in at most "
        f"{100 * bound:.1f} % of all steps (95 %)."
    )
    return Finding(
        "clip-idle", "The clip rule never binds.", evidence, overlay({"clip_rule": changed}, _MEASURED)
    )


def _groups(facts: RunFacts) -> dict[str, Curve]:
    prefix = "clip/clipped_share/"
    return {n.removeprefix(prefix): c for n, c in facts.curves.items() if n.startswith(prefix) and c.values}


def _of_alive(clipped: Curve, zero: Curve | None) -> Curve:
    """Share of the entries other than 0, at steps where there are such."""
    zeros = {} if zero is None else dict(zip(zero.steps, zero.values, strict=True))
    points = [
        (step, value / (1 - zeros.get(step, 0.0)))
        for step, value in zip(clipped.steps, clipped.values, strict=True)
        if zeros.get(step, 0.0) < 1
    ]
    return Curve(clipped.name, tuple(s for s, _ in points), tuple(min(1.0, v) for _, v in points))


def _scaled(rule: Any, factor: float, groups: set[str]) -> Any:
    """The rule with its fixed ranges times a factor, of some groups where it has one rule a modality."""
    rule = copy.deepcopy(rule)
    options = rule.get("init_args") if isinstance(rule, dict) else None
    if not isinstance(options, dict):
        return rule
    name = name_of(rule)
    if name == "PerModality":
        own: Lines = options.get("rules") or {}
        options["rules"] = {m: _scaled(r, factor, groups) if m in groups else r for m, r in own.items()}
        if groups - set(own):
            options["rest"] = _scaled(options.get("rest"), factor, groups)
        return rule
    for key, value in options.items():
        if key == _RANGES.get(name) and isinstance(value, int | float):
            options[key] = float(f"{factor * value:.3g}")
        elif isinstance(value, dict) and "class_path" in value and key != "unit":
            options[key] = _scaled(value, factor, groups)
        elif isinstance(value, list):
            options[key] = [_scaled(x, factor, groups) if isinstance(x, dict) else x for x in value]
    return rule
