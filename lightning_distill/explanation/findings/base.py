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
        change: YAML that goes over the run's config; empty where there is nothing to set.
            `{changes}/misleading-samples.txt` in it (`{changes}/NAME.txt`) stands for the file that
            `sample_ids` are written to.
        sample_ids: Those that the change names by a file, one a line; empty where it names none.
    """

    name: str
    title: str
    evidence: str
    change: str
    sample_ids: tuple[int, ...] = ()
