"""Runs side by side as one HTML page, or as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from lightning_distill.reporting.atomic import write_atomically, write_json
from lightning_distill.reporting.charts import Line, line_chart
from lightning_distill.reporting.comparison.rows import (
    differing,
    environment_rows,
    fact_rows,
    metric_rows,
    setting_rows,
)
from lightning_distill.reporting.comparison.runs import ComparedRun
from lightning_distill.reporting.web import page_environment

TEMPLATE: Final = "comparison/page.html.j2"
_METRICS: Final = (
    "Of validation at the step of each run's best checkpoint. The best is marked; a difference smaller than "
    "that between seeds means nothing."
)
_TIME: Final = "Time runs from the start to the last checkpoint, by the dates of the files."
_CHARTS, _LINES, _ROWS = 24, 12, 500


def save_comparison(runs: Sequence[ComparedRun], path: Path) -> Path:
    """Write the page, or JSON where the name ends in `.json`; whole or not at all.

    Args:
        runs: In the order of the columns.
        path: Of the file.

    Returns:
        The path.
    """
    if path.suffix == ".json":
        return write_json(path, {"runs": [_plain(run) for run in runs], "differences": _differences(runs)})
    return write_atomically(path, render_comparison(runs))


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """The page.

    Args:
        runs: In the order of the columns.

    Returns:
        HTML.
    """
    sections = [
        ("Metrics", _METRICS, metric_rows(runs), True),
        ("Size and time", _TIME, fact_rows(runs), True),
        ("Settings that differ", "All others are the same.", setting_rows(runs)[:_ROWS], False),
        ("Made with", "Only what differs.", environment_rows(runs)[:_ROWS], False),
    ]
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(names=[run.name for run in runs], sections=sections, charts=list(_charts(runs)))
    )


def _charts(runs: Sequence[ComparedRun]) -> Iterator[Markup]:
    """A chart for each metric of validation that two runs or more have."""
    names = dict.fromkeys(n for run in runs for n in run.curves if n.startswith("val/"))
    shared = [n for n in names if sum(n in run.curves for run in runs) > 1]
    for name in shared[:_CHARTS]:
        own = [run for run in runs[:_LINES] if name in run.curves]
        yield line_chart(
            name, [Line(run.name, run.curves[name].steps, run.curves[name].values) for run in own]
        )


def _plain(run: ComparedRun) -> dict[str, Any]:
    found = asdict(run)
    found["curves"] = {name: {"steps": c.steps, "values": c.values} for name, c in run.curves.items()}
    return found


def _differences(runs: Sequence[ComparedRun]) -> dict[str, dict[str, list[Any]]]:
    """Key -> a value a run, null where it has none."""
    sides = {"settings": [run.settings for run in runs], "environment": [run.environment for run in runs]}
    return {
        what: {key: [side.get(key) for side in own] for key in differing(own)} for what, own in sides.items()
    }
