"""The report of a run as one HTML file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lightning_distill.errors import printable
from lightning_distill.reporting.atomic import write_atomically
from lightning_distill.reporting.charts import interval_chart, reliability_chart, share_bar
from lightning_distill.reporting.run_page.class_rows import class_rows
from lightning_distill.reporting.run_page.curve_charts import curve_groups
from lightning_distill.reporting.run_page.galleries import Gallery, galleries
from lightning_distill.reporting.run_page.models import (
    COLOURS,
    contribution_charts,
    headings,
    layer_map,
    models,
    tiles,
)
from lightning_distill.reporting.web import page_environment, plain
from lightning_distill.security.secrets import redacted_values

if TYPE_CHECKING:
    from lightning_distill.data import MultimodalDataModule
    from lightning_distill.explanation.facts import RunFacts
    from lightning_distill.explanation.findings import Finding

BUDGET: Final = 5_000_000
"""Bytes of a page."""
_RESERVE: Final = 50_000
_FINDINGS, _SENTENCES, _SETTINGS = 30, 50, 100
TEMPLATE: Final = "run_page/templates/page.html.j2"


def save_run_report(
    facts: RunFacts,
    findings: Sequence[Finding],
    data: MultimodalDataModule,
    path: Path,
    changes: Mapping[str, str],
) -> Path:
    """Write the page, whole or not at all; it needs no network and weighs at most 5 MB.

    Args:
        facts: Of the run.
        findings: What stands out, the worst first.
        data: Of the run; samples are shown from its source.
        path: Of the HTML file; its folder is made where needed.
        changes: Name of a finding -> the command line that trains again with it.

    Returns:
        The path.

    Raises:
        DiskError: If the disk refuses.
    """
    return write_atomically(path, render_run_report(facts, findings, data, changes))


def render_run_report(
    facts: RunFacts,
    findings: Sequence[Finding],
    data: MultimodalDataModule,
    changes: Mapping[str, str],
    budget: int = BUDGET,
) -> str:
    """The page. Samples get the bytes that the rest has left.

    Args:
        facts: Of the run.
        findings: What stands out, the worst first.
        data: Of the run.
        changes: Name of a finding -> command line.
        budget: Bytes of the page.

    Returns:
        HTML.
    """
    template = page_environment().get_template(TEMPLATE)
    words = _words(facts, findings, changes)
    shown: list[Gallery] = []
    if facts.agreement is not None and any(facts.agreement.examples.values()):
        bare = template.render(**words, galleries=[])
        left = budget - len(bare.encode()) - _RESERVE
        shown = galleries(facts.agreement, data, tuple(data.classes), left)
    return template.render(**words, galleries=shown)


def _words(facts: RunFacts, findings: Sequence[Finding], changes: Mapping[str, str]) -> dict[str, Any]:
    """What the templates ask for."""
    run, worth, found = facts.run, facts.worth, facts.similarity
    return {
        "name": plain(run.name or run, 200),
        "facts": facts,
        "tiles": tiles(facts),
        "models": models(facts),
        "headings": headings(facts),
        "worth": worth,
        "interval": worth
        and interval_chart("Student minus baseline", worth.difference, worth.low, worth.high),
        "baseline": f"lightning-distill baseline {shlex.quote(printable(run, 1000))}",
        "findings": [(finding, changes.get(finding.name, "")) for finding in findings[:_FINDINGS]],
        "more_findings": max(0, len(findings) - _FINDINGS),
        "groups": curve_groups(facts.curves),
        "shares": share_bar("All samples of the split", facts.agreement.counts) if facts.agreement else "",
        "classes": class_rows(facts.classes),
        "class_models": list(dict.fromkeys(who for c in facts.classes for who in c.accuracy)),
        "contributions": contribution_charts(facts.contributions),
        "calibration": [
            reliability_chart(who, own, COLOURS.get(who, 3)) for who, own in facts.calibration.items()
        ],
        "layers": layer_map(found) if found is not None else None,
        "left_out": [plain(sentence, 2000) for sentence in facts.left_out[:_SENTENCES]],
        "config": plain(facts.config, 200_000),
        "environment": _environment(facts.environment),
    }


def _environment(found: Mapping[str, Any]) -> dict[str, str]:
    values = redacted_values(dict(found))
    return {
        plain(key): plain(value if isinstance(value, str) else json.dumps(value, default=str), 2000)
        for key, value in list(values.items())[:_SETTINGS]
    }
