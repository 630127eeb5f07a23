"""A student that is surer of itself than it should be."""

from __future__ import annotations

import numpy as np

from lightning_distill.explanation.answers import STUDENT, TEACHER, Answers
from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.chance import mean_of
from lightning_distill.explanation.findings.overlay import Lines, RunConfig, inner, overlay


def over_confident(facts: RunFacts) -> Finding | None:
    """Confidence minus accuracy of the student is above 0, and above the teacher's (paired).

    Both are means over the samples with an interval; the student's calibration error must be the larger too.
    """
    answers = facts.answers
    if answers is None or TEACHER not in answers.probabilities:
        return None
    student, teacher = (_excess(answers, name) for name in (STUDENT, TEACHER))
    own, more = mean_of(student, 2), mean_of(student - teacher, 2)
    errors = [facts.calibration[n].error for n in (STUDENT, TEACHER) if n in facts.calibration]
    if own.low <= 0 or more.low <= 0 or (len(errors) == 2 and errors[0] <= errors[1]):
        return None
    config, change = RunConfig(facts.config), ""
    if any(_temperature(term) for term in config.taught.values()):
        change = overlay(config.with_terms(_warmer), "Softer targets: twice the temperature.")
    shown = f" Calibration errors: {errors[0]:.3f} and {errors[1]:.3f}." if len(errors) == 2 else ""
    evidence = (
        f"The student's mean confidence is {own} above its accuracy, and that is {more} more than with the "
        f"teacher, on {len(student)} samples.{shown}"
    )
    return Finding("over-confident", "The student is surer of itself than its teacher.", evidence, change)


def _excess(answers: Answers, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    confidence, said = answers.probabilities[name].double().max(dim=1)
    return np.asarray(confidence - (said == answers.target).double(), dtype=np.float64)


def _temperature(term: Lines) -> float:
    value = (inner(term).get("init_args") or {}).get("temperature")
    return float(value) if isinstance(value, int | float) else 0.0


def _warmer(term: Lines) -> Lines:
    """A term, already a copy, with twice its temperature, if it has one."""
    if _temperature(term):
        inner(term)["init_args"]["temperature"] = 2 * _temperature(term)
    return term
