"""What a report of a run says, in short, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_distill.errors import printable
from lightning_distill.reporting.formatting import MISSING, metric_heading, metric_value, percent

if TYPE_CHECKING:
    from lightning_distill.explanation.facts import RunFacts
    from lightning_distill.explanation.findings import Finding


def metrics_table(facts: RunFacts) -> Table:
    """A line a model: parameters and metrics (shares in percent).

    Args:
        facts: Of the run.
    """
    names = list(dict.fromkeys(name for values in facts.metrics.values() for name in values))
    domains = f", domain {', '.join(facts.domains)}" if facts.domains else ""
    title = printable(f"{facts.run}, split {facts.split}{domains}")
    table = Table(title=Text(f"{title}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    table.add_column("model")
    table.add_column("parameters", justify="right")
    for name in names:
        table.add_column(Text(metric_heading(name)), justify="right", overflow="fold")
    for model, values in facts.metrics.items():
        # A baseline is the student, trained otherwise.
        count = facts.parameters.get("student" if model == "baseline" else model)
        shown = MISSING if count is None else f"{count:,}"
        table.add_row(model, shown, *(metric_value(name, values.get(name)) for name in names))
    return table


def sentences(facts: RunFacts, findings: Sequence[Finding], changes: Mapping[str, str]) -> Iterator[str]:
    """Agreement, what the teacher was worth, what stands out, what is missing.

    Args:
        facts: Of the run.
        findings: What stands out in it.
        changes: Name of a finding -> command line that trains again with its change.

    Yields:
        Lines.
    """
    if facts.agreement is not None:
        counts = ", ".join(f"{kind}: {count:,}" for kind, count in facts.agreement.counts.items())
        yield f"Student and teacher agree on {percent(facts.agreement.share)} of the samples ({counts})."
    if facts.worth is not None:
        yield facts.worth.verdict
    for finding in findings:
        yield f"- {finding.title} {finding.evidence}"
        if finding.name in changes:
            yield f"  try: {changes[finding.name]}"
    if not findings:
        yield "Nothing stands out."
    yield from facts.left_out
