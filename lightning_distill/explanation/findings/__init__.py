"""From seeing to acting: what stands out in a run, and the config lines that would change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.classes import misleading_class
from lightning_distill.explanation.findings.clips import clip_idle, clip_too_tight
from lightning_distill.explanation.findings.confidence import over_confident
from lightning_distill.explanation.findings.help import help_unclear, teacher_harms
from lightning_distill.explanation.findings.modalities import starving_modality
from lightning_distill.explanation.findings.overfitting import overfit
from lightning_distill.explanation.findings.samples import misleading_samples_found, placed
from lightning_distill.explanation.findings.terms import harmful_term

__all__ = ["Finding", "findings", "placed"]

_RULES: Final[tuple[Callable[[RunFacts], Finding | None], ...]] = (
    teacher_harms,
    misleading_class,
    harmful_term,
    misleading_samples_found,
    starving_modality,
    clip_too_tight,
    overfit,
    over_confident,
    clip_idle,
    help_unclear,
)
"""The worst first."""


def findings(facts: RunFacts) -> tuple[Finding, ...]:
    """What stands out, the worst first; empty where nothing does.

    Where samples or steps are drawn, each rests on a test of chance: a two-sided p or an interval at 5 %,
    which each rule shares out among the classes, terms or modalities that it looks at. That it cannot be told
    whether the teacher helps is a finding too.

    Args:
        facts: Of a run.
    """
    found = (rule(facts) for rule in _RULES)
    return tuple(one for one in found if one is not None)
