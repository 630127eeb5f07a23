"""What models are worth as one modality at a time gets worse: a table and a JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_distill.reporting.atomic import write_json
from lightning_distill.reporting.formatting import MISSING, is_share, known, metric_heading, metric_value

if TYPE_CHECKING:
    from lightning_distill.robustness import Curve

    Runs = Mapping[str, Sequence[Curve]]
    """Name of a run -> its curves; others are compared with the first."""


def robustness_table(runs: Runs, metric: str, title: str) -> Table:
    """A line for each corruption, modality and run: the metric at each level, and its mean over the levels.

    Args:
        runs: As measured, one or more.
        metric: The one to show.
        title: What was measured on what.
    """
    several = len(runs) > 1
    words = f"{metric_heading(metric)} as one modality at a time gets worse"
    table = Table(title=Text(f"{title}\n{words}\n", style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.show_edge, table.pad_edge, table.padding = False, False, (0, 1, 0, 0)
    table.add_column("corruption", no_wrap=True)
    for name in ("modality", *(["run"] if several else [])):
        table.add_column(Text(name), overflow="fold")
    levels = dict.fromkeys(level for curves in runs.values() for curve in curves for level in curve.levels)
    for name in (*(f"{level:g}" for level in levels), "area", *(["against\nfirst"] if several else [])):
        table.add_column(Text(name), justify="right", no_wrap=True)
    before = ""
    for way, modality in kinds(runs):
        if before not in ("", way):
            table.add_section()
        for run, curves in runs.items():
            curve = _found(curves, way, modality)
            if curve is not None:
                table.add_row(*_cells(curve, runs, run, metric, "" if before == way else way))
                before = way
    table.caption, table.caption_justify = Text(_remarks(runs, several)), "left"
    return table


def save_robustness(runs: Runs, metric: str, split: str, seed: int, path: Path | str) -> Path:
    """Write curves, areas and comparisons as JSON; NaN and infinity become null.

    Args:
        runs: As measured.
        metric: The one shown in table and picture.
        split: What they were measured on.
        seed: Of the draws.
        path: The file; its folder is made where needed.

    Returns:
        The path.
    """
    told = [{"run": run, "curves": [_told(curve, runs) for curve in curves]} for run, curves in runs.items()]
    return write_json(path, {"split": split, "seed": seed, "metric": metric, "runs": told})


def kinds(runs: Runs) -> list[tuple[str, str]]:
    """Corruption and modality of all curves, those of one corruption side by side.

    Args:
        runs: As measured.
    """
    curves = [curve for found in runs.values() for curve in found]
    ways = dict.fromkeys(curve.corruption for curve in curves)
    there = {(curve.corruption, curve.modality) for curve in curves}
    modalities = dict.fromkeys(curve.modality for curve in curves)
    return [(way, m) for way in ways for m in modalities if (way, m) in there]


def _found(curves: Sequence[Curve], way: str, modality: str) -> Curve | None:
    return next((c for c in curves if (c.corruption, c.modality) == (way, modality)), None)


def _cells(curve: Curve, runs: Runs, run: str, metric: str, way: str) -> list[Text]:
    from lightning_distill.robustness import area

    several, measured = len(runs) > 1, metric in curve.metrics
    values = curve.metrics[metric] if measured else [None] * len(curve.levels)
    words = [way, curve.modality, *([run] if several else [])]
    numbers = [metric_value(metric, value) for value in values]
    numbers.append(metric_value(metric, area(curve, metric) if measured else None))
    if several:
        first = run == next(iter(runs))
        numbers.append("" if first else _difference(metric, _against_first(curve, runs).get(metric)))
    return [Text(cell) for cell in words + numbers]


def _difference(metric: str, value: float | None) -> str:
    if value is None or not known(value):
        return MISSING
    return f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.3f}"


def _against_first(curve: Curve, runs: Runs) -> dict[str, float]:
    """Metric -> effective robustness; empty where the first run has no such curve."""
    from lightning_distill.robustness import effective

    first = _found(next(iter(runs.values())), curve.corruption, curve.modality)
    if first is None:
        return {}
    return {name: effective(curve, first, name) for name in curve.metrics if name in first.metrics}


def _told(curve: Curve, runs: Runs) -> dict[str, Any]:
    from lightning_distill.robustness import area

    areas = {name: area(curve, name) for name in curve.metrics}
    against = {"against_first": _against_first(curve, runs)} if len(runs) > 1 else {}
    return {**asdict(curve), "area": areas, **against}


def _remarks(runs: Runs, several: bool) -> str:
    """What the numbers are of, and what they leave out."""
    lines = ["area: mean over the levels."]
    if several:
        lines.append("against first: mean of how much less the run loses than the first run does.")
    sizes = {run: curves[0].samples for run, curves in runs.items() if curves}
    alike = len(set(sizes.values())) == 1
    told = [f"{size:,}" for size in sizes.values()][:1] if alike else [f"{r} {n:,}" for r, n in sizes.items()]
    lines.append(f"samples: {', '.join(told)}" + (" in each run." if several and alike else "."))
    for run, curves in runs.items():
        spared: dict[str, list[str]] = {}
        for curve in (curve for curve in curves if curve.unchanged):
            spared.setdefault(curve.corruption, []).append(f"{curve.modality} {curve.unchanged:,}")
        if spared:
            told = [f"{way} of {', '.join(counts)}" for way, counts in spared.items()]
            about = "samples that no level changes, such as those that lack the modality"
            lines.append(f"{about}{f', {run}' if several else ''}: {'; '.join(told)}.")
    return "\n" + "\n".join(lines)
