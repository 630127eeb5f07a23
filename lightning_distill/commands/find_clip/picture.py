"""The metric over the range, with quantiles above and plateaus as broad bands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lightning_distill.range_finding.places import ALL, Place
from lightning_distill.range_finding.trials import Plateau, Trial
from lightning_distill.reporting.figures import COLOURS, MARKERS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_distill.range_finding.finder import ClipRangeResult

FAR: Final = 3.0
"""Times the smallest loss, from where on losses are drawn on a logarithmic axis."""


def draw_picture(result: ClipRangeResult, place: Place) -> Figure:
    """A line for each learning rate; no clip stands at the right end.

    Args:
        result: What was found.
        place: Of the range.

    Returns:
        A figure outside pyplot.
    """
    figure = new_figure(8, 4.8)
    axes = figure.subplots()
    tried = [t.choice.epsilon for t in result.trials if t.choice.epsilon is not None]
    off = max([*tried, result.quantiles[ALL].values[-1]]) * 3
    rates = sorted({t.learning_rate for t in result.trials})
    for i, rate in enumerate(rates):
        row = [t for t in result.trials if t.learning_rate == rate]
        _line(axes, row, off, f"lr {rate:.3g}", i)
    for plateau in result.plateaus:
        _band(axes, plateau, off, rates.index(plateau.learning_rate))
    values = [t.value for t in result.trials if t.value is not None]
    if result.goal.mode == "min" and values and max(values) > FAR * min(values) > 0:
        axes.set_yscale("log")  # one bad training would flatten all others
    chosen = result.chosen
    if chosen.value is not None:
        at = chosen.choice.epsilon or off
        axes.plot([at], [chosen.value], "o", ms=12, mfc="none", mec="#222222", label="chosen", ls="")
    axes.set_xscale("log")
    axes.set_xlabel(f"range of {place.letter}; no clip at the right end; broad: cannot be told apart")
    axes.set_ylabel(f"{result.goal.monitor}, {'less' if result.goal.mode == 'min' else 'more'} is better")
    axes.axvline(off, color="#b0b0b0", lw=0.8, ls=":")
    _quantile_axis(axes, result, off)
    axes.legend(fontsize=8, ncols=1 + len(rates) // 8)
    return figure


def save_picture(result: ClipRangeResult, place: Place, path: Path) -> Path:
    """Draw and write a PNG, whole or not at all.

    Args:
        result: What was found.
        place: Of the range.
        path: Ends in `.png`.
    """
    return save_figure(draw_picture(result, place), path)


def _line(axes: Axes, row: list[Trial], off: float, label: str, i: int) -> None:
    points = sorted((t.choice.epsilon or off, t.value) for t in row if t.value is not None)
    stopped = [t.choice.epsilon or off for t in row if t.value is None]
    colour = COLOURS[i % len(COLOURS)]
    if points:
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker=MARKERS[i % len(MARKERS)], label=label, color=colour)
    if stopped:
        low = [0.02] * len(stopped)
        axes.plot(
            stopped,
            low,
            "x",
            transform=axes.get_xaxis_transform(),
            ms=9,
            label=f"{label}, stopped",
            color=colour,
        )


def _band(axes: Axes, plateau: Plateau, off: float, i: int) -> None:
    middle = (plateau.worst + plateau.best) / 2
    ends = [plateau.low, plateau.high or off]
    axes.plot(ends, [middle] * 2, lw=14, alpha=0.25, color=COLOURS[i % len(COLOURS)], zorder=0)


def _quantile_axis(axes: Axes, result: ClipRangeResult, off: float) -> None:
    """Where quantiles lie, on the upper edge."""
    levels = (0.1, 0.5, 0.9, 0.99, 1.0)
    upper = axes.secondary_xaxis("top")
    found = result.quantiles[ALL]
    upper.set_xticks(
        [*(found.at(level) for level in levels), off],
        [*("max" if level == 1 else f"{100 * level:g}%" for level in levels), "off"],
        fontsize=7,
        rotation=45,
    )
    upper.set_xticks([], minor=True)
