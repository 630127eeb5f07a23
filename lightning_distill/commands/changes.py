"""Config lines that a report proposes, as files in the run's folder."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lightning_distill.explanation.findings import Finding

_MADE: Final = "# Made by lightning-distill report"
"""How the first line of a file begins that a report may replace; all others are the user's."""


class Changes:
    """RUN/changes: one overlay for each finding, and lists of the samples that they name.

    The overlays are those of the last report on a split. Lists stay, each named by what is in it: the config
    of a run that was trained with one names it.

    Args:
        run: Folder of the run; has a name of its own, beside which reruns go.
        split: That the report is on; names of overlays tell it, but for the test split.
    """

    def __init__(self, run: Path, split: str) -> None:
        self._run, self._folder = run, run / "changes"
        self._suffix = "" if split == "test" else f"-{split}"
        self._first_line = f"{_MADE}, {split} split"

    def placed(self, finding: Finding) -> Finding:
        """The finding with the list of its samples in its config lines."""
        from lightning_distill.explanation.findings import placed

        told, own = (f"{{changes}}/{name}" for name in (f"{finding.name}.txt", _list_name(finding)))
        return placed(replace(finding, change=finding.change.replace(told, own)), self._folder)

    def command(self, finding: Finding) -> str:
        """The command line that trains again with a finding's change."""
        overlay = self._overlay(finding)
        again = self._run.with_name(f"{self._run.name}-{overlay.stem}")
        words = ["fit", "--config", self._run / "config.yaml", "--config", overlay, "--run", again]
        return shlex.join(["lightning-distill", *map(str, words)])

    def write(self, found: Sequence[Finding]) -> None:
        """Write overlays and lists, and remove the overlays of the report before.

        Args:
            found: All findings of the report, placed.
        """
        from lightning_distill.reporting.atomic import write_atomically

        written = set()
        for finding in found:
            if not finding.change:
                continue
            if finding.sample_ids:
                write_atomically(self._folder / _list_name(finding), _list(finding))
            overlay = self._overlay(finding)
            write_atomically(overlay, f"{self._first_line}\n{finding.change.rstrip()}\n")
            written.add(overlay)
        for old in self._folder.glob("*.yaml"):
            if old not in written and _first_line(old) == self._first_line:
                old.unlink(missing_ok=True)

    def _overlay(self, finding: Finding) -> Path:
        """Where no file of the user's is."""
        stem, number = f"{finding.name}{self._suffix}", 1
        overlay = self._folder / f"{stem}.yaml"
        while overlay.exists() and not _first_line(overlay).startswith(_MADE):
            number += 1
            overlay = self._folder / f"{stem}-{number}.yaml"
        return overlay


def _list(finding: Finding) -> str:
    return "".join(f"{number}\n" for number in finding.sample_ids)


def _list_name(finding: Finding) -> str:
    return f"{finding.name}-{hashlib.sha256(_list(finding).encode()).hexdigest()[:12]}.txt"


def _first_line(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().rstrip("\r\n")
