"""From seeing to acting: what stands out in a run, and the config lines that would change it."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_distill.explanation.facts import RunFacts


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        name: Short and stable, fit for a file name, such as `misleading-class`.
        title: A sentence.
        evidence: Sentences with the figures it rests on.
        change: YAML that goes over the run's config; empty where there is nothing to set.
        sample_ids: Those that the change names by a file, one a line; empty where it names none.
    """

    name: str
    title: str
    evidence: str
    change: str
    sample_ids: tuple[int, ...] = ()


def findings(facts: RunFacts) -> tuple[Finding, ...]:
    """What stands out, the worst first; empty where nothing does.

    Args:
        facts: Of a run.
    """
    raise NotImplementedError
