"""Training samples on which the teacher misleads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lightning_distill.explanation.facts import RunFacts
from lightning_distill.explanation.findings.base import Finding
from lightning_distill.explanation.findings.overlay import RunConfig, as_yaml, excluding, overlay
from lightning_distill.explanation.target_domain import only_on_target
from lightning_distill.security.safe_yaml import load_yaml

_FOLDER: Final = "{changes}"
_FILE: Final = f"{_FOLDER}/misleading-samples.txt"


def misleading_samples_found(facts: RunFacts) -> Finding | None:
    """Training samples of `RunFacts.misleading`: all were looked at, so nothing is by chance."""
    ids = facts.misleading
    if not ids:
        return None
    config, change = RunConfig(facts.config), ""
    if config.taught:
        lines = config.with_terms(lambda term: excluding(term, samples=_FILE))
        comment = "Samples on which the teacher is sure of another class than the label. Look at some first."
        change = overlay(lines, comment)
    count = max(len(ids), facts.misleading_count)
    where = " of the target domain" if only_on_target(config) else ""
    what = ("training sample" if count == 1 else "training samples") + where
    clearest = f" The file names the {len(ids):,} clearest of {count:,}." if count > len(ids) else ""
    evidence = (
        f"On {count:,} labelled {what} the teacher gives another class at least the probability that it "
        "gives that class's own samples on average (confident learning, 1911.00068). Either teacher or "
        f"label is wrong there; with the change, the student learns from the label alone.{clearest}"
    )
    return Finding("misleading-samples", f"The teacher contradicts {count:,} {what}.", evidence, change, ids)


def placed(finding: Finding, folder: Path) -> Finding:
    """The finding with the folder that its samples are written to in its config lines.

    Args:
        finding: Of any rule; most name no folder.
        folder: May hold any characters that a path may.
    """
    if _FOLDER not in finding.change:
        return finding
    comments = "".join(line for line in finding.change.splitlines(True) if line.startswith("# "))
    lines = _with_folder(load_yaml(finding.change), folder.as_posix())
    return replace(finding, change=comments + as_yaml(lines))


def _with_folder(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_folder(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_folder(item, folder) for item in value]
    return value.replace(_FOLDER, folder) if isinstance(value, str) else value
