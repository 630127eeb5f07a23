"""Robustness curves as a grid of panels: a row a corruption, a column a modality, a line a run."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning_distill.reporting.figures import COLOURS, MARKERS, new_figure, save_figure
from lightning_distill.reporting.formatting import is_share, metric_heading
from lightning_distill.reporting.robustness import kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_distill.reporting.robustness import Runs

PANEL: Final = (3.2, 2.5)
"""Inches."""
LETTER: Final = 0.085
"""Inches that a letter of the legend takes, at most."""


def draw_robustness(runs: Runs, metric: str, title: str) -> Figure:
    """All panels share both axes.

    Args:
        runs: As measured, one or more.
        metric: The one to draw.
        title: What was measured on what.

    Returns:
        A figure outside pyplot.
    """
    ways = list(dict.fromkeys(way for way, _ in kinds(runs)))
    modalities = list(dict.fromkeys(modality for _, modality in kinds(runs)))
    width = max(6.0, PANEL[0] * len(modalities) + 0.5)
    height = PANEL[1] * len(ways) + 1.1
    figure = new_figure(width, height)
    words = f"{title}: one modality at a time gets worse"
    figure.suptitle(textwrap.fill(words, int(width * 9)), fontsize=12, fontweight="bold")
    grid = figure.subplots(len(ways), len(modalities), sharex=True, sharey=True, squeeze=False)
    for way, row in zip(ways, grid, strict=True):
        for modality, axes in zip(modalities, row, strict=True):
            _panel(axes, runs, metric, way, modality)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric_heading(metric))
    for axes in grid[-1]:
        axes.set_xlabel("level (0: as it is)")
    if len(runs) > 1:
        _legend(figure, list(runs), width)
    return figure


def save_robustness_picture(runs: Runs, metric: str, title: str, path: Path | str) -> Path:
    """Draw and write a PNG, whole or not at all.

    Args:
        runs: As measured, one or more.
        metric: The one to draw.
        title: What was measured on what.
        path: Ends in `.png`; its folder is made where needed.

    Returns:
        The path.
    """
    return save_figure(draw_robustness(runs, metric, title), path)


def _panel(axes: Axes, runs: Runs, metric: str, way: str, modality: str) -> None:
    axes.set_title(f"{way}, {modality}", loc="left", fontsize=10)
    axes.grid(color="#e8e8e8")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    scale = 100 if is_share(metric) else 1
    for i, curves in enumerate(runs.values()):
        for curve in curves:
            if (curve.corruption, curve.modality) == (way, modality) and metric in curve.metrics:
                values = [scale * value for value in curve.metrics[metric]]
                axes.plot(curve.levels, values, **_style(i))  # type: ignore[arg-type]


def _style(i: int) -> dict[str, object]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "markeredgecolor": "white",
        "markersize": max(9 - 0.8 * i, 5.5),  # lines that coincide stay visible
    }


def _legend(figure: Figure, names: list[str], width: float) -> None:
    """Below the panels, in as many columns as the longest name leaves room for."""
    from matplotlib.lines import Line2D

    longest = max(map(len, names))
    handles = [Line2D([], [], label=name, **_style(i)) for i, name in enumerate(names)]  # type: ignore[arg-type]
    columns = max(1, min(len(names), int(width / (LETTER * longest + 0.6))))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
