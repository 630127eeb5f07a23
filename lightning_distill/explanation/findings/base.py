"""What a finding is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        name: Short and stable, fit for a file name, such as `misleading-class`.
        title: A sentence.
        evidence: Sentences with the figures it rests on.
        change: YAML that goes over the run's config; empty where there is nothing to set. `{changes}` in it
            stands for the folder that `sample_ids` are written to, as `misleading-samples.txt`.
        sample_ids: Those that the change names by a file, one a line; empty where it names none.
    """

    name: str
    title: str
    evidence: str
    change: str
    sample_ids: tuple[int, ...] = ()
