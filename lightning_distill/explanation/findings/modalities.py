"""Modalities that starve."""

from __future__ import annotations

import numpy as np

from lightning_distill.contribution import Contributions
from lightning_distill.explanation.answers import STUDENT, TEACHER
from lightning_distill.explanation.curves import Curve
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import mean_of, mean_over_time
from lightning_distill.explanation.findings.overlay import Lines, RunConfig, overlay

_DROPOUT = 0.3
_FAR = 0.5
"""What the student makes of a modality is far below the teacher's under this part of it."""
_FAIR = 0.1
"""Nothing reaches an encoder under this part of an even share."""


def starving_modality(facts: RunFacts) -> Finding | None:
    """Modalities of which the student makes far less than the teacher, or whose gradient is hardly there.

    The first compares Shapley values sample by sample, the second is a mean over the training.
    """
    told = {**_reached(facts), **_contributed(facts)}
    if not told:
        return None
    names = ", ".join(repr(name) for name in told)
    word = "modality" if len(told) == 1 else "modalities"
    title = f"The {word} {names} of the student {'starves' if len(told) == 1 else 'starve'}."
    return Finding("starving-modality", title, " ".join(told.values()), _change(RunConfig(facts.config)))


def _contributed(facts: RunFacts) -> dict[str, str]:
    student, teacher = (facts.contributions.get(name) for name in (STUDENT, TEACHER))
    if student is None or teacher is None or len(student.modalities) < 2:
        return {}
    both = [m for m in student.modalities if m in teacher.modalities]
    score = next((name for name in student.values if name in teacher.values), None)
    if score is None:
        return {}
    told = {}
    for m in both:
        mine, theirs = _paired(student, teacher, score, m)
        if len(mine) < 2 or theirs.mean() <= 0 or mine.mean() >= _FAR * theirs.mean():
            continue
        less = mean_of(theirs - mine, len(both))
        if less.low > 0:
            told[m] = (
                f"{m!r} adds {mine.mean():.3f} to the {score} of the student and {theirs.mean():.3f} to the "
                f"teacher's; the difference is {less} over {len(mine)} samples."
            )
    return told


def _paired(
    student: Contributions, teacher: Contributions, score: str, modality: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Shapley values of the samples that both were asked about, in one order."""
    values = [
        dict(zip(c.sample_id.tolist(), c.values[score][modality].tolist(), strict=True))
        for c in (student, teacher)
    ]
    ids = [i for i in values[0] if i in values[1]]
    mine, theirs = (np.asarray([v[i] for i in ids], dtype=np.float64) for v in values)
    return mine, theirs


def _reached(facts: RunFacts) -> dict[str, str]:
    modalities = facts.modalities.get(STUDENT, ())
    norms = {m: facts.curves.get(f"clip/norm_before/{m}") for m in modalities}
    known = {m: curve for m, curve in norms.items() if curve is not None}
    if len(known) < 2 or len(known) < len(modalities):
        return {}
    told = {}
    for m, share in _shares(known).items():
        mean = mean_over_time(share, len(known))
        if mean is not None and mean.high < _FAIR / len(known):
            told[m] = f"Of the gradient norms of all encoders, that of {m!r} has a share of {mean}."
    return told


def _shares(norms: dict[str, Curve]) -> dict[str, Curve]:
    """Modality -> norm over the sum of all norms, at the steps that all have."""
    at = {m: dict(zip(c.steps, c.values, strict=True)) for m, c in norms.items()}
    steps = [s for s in next(iter(at.values())) if all(s in values for values in at.values())]
    total = {s: sum(values[s] for values in at.values()) for s in steps}
    steps = [s for s in steps if total[s] > 0]
    return {m: Curve(m, tuple(steps), tuple(v[s] / total[s] for s in steps)) for m, v in at.items()}


def _change(config: RunConfig) -> str:
    lines: Lines
    dropout = config.at("model", "init_args", "student", "init_args", "modality_dropout")
    if isinstance(dropout, int | float) and dropout < _DROPOUT:
        lines = {"student": {"init_args": {"modality_dropout": _DROPOUT}}}
        return overlay(lines, "Every encoder has to learn on its own: each modality is left out at times.")
    if not (config.module.get("balancer") or config.module.get("gradient_balancer")) and config.module:
        lines = {"gradient_balancer": {"class_path": "OGMGE", "init_args": {"alpha": 0.5}}}
        return overlay(lines, "The modality that is ahead learns more slowly.")
    return ""
