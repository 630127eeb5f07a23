"""Whether the teacher helps at all."""

from __future__ import annotations

from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.overlay import RunConfig, overlay
from lightning_distill.explanation.worth import Worth

_NAME = "teacher-no-help"


def teacher_harms(facts: RunFacts) -> Finding | None:
    """The interval of student minus baseline lies below 0."""
    worth = facts.worth
    if worth is None or worth.high >= 0:
        return None
    config, change = RunConfig(facts.config), ""
    if config.taught:
        change = config.without_teacher("Labels alone: as the matched baseline was trained.")
    return Finding(_NAME, "The student is worse than without a teacher.", _evidence(worth), change)


def help_unclear(facts: RunFacts) -> Finding | None:
    """The interval of student minus baseline holds 0."""
    worth = facts.worth
    if worth is None or worth.high < 0 or worth.low > 0:
        return None
    config, change = RunConfig(facts.config), ""
    now = {name: config.weight(name) for name in config.taught}
    halved = {name: weight / 2 for name, weight in now.items() if weight}
    if halved:
        comment = "A try, not a result: half as much of the teacher. More seeds of the baseline tell more."
        change = overlay(config.with_weights(halved), comment)
    return Finding(_NAME, "It cannot be told whether the teacher helps.", _evidence(worth), change)


def _evidence(worth: Worth) -> str:
    interval = f"{100 * worth.low:+.1f} to {100 * worth.high:+.1f}"
    seeds = (
        "One pair of trainings: the interval knows nothing of other seeds."
        if worth.pairs == 1
        else f"{worth.pairs} pairs of trainings."
    )
    return (
        f"Accuracy is {100 * worth.student:.1f} % with the teacher and {100 * worth.baseline:.1f} % without: "
        f"a difference of {100 * worth.difference:+.1f} points (95 % interval {interval}) on {worth.samples} "
        f"samples. {seeds}"
    )
